// Kubernetes' own API server, controller manager and scheduler in one program, so that what they share is built and
// linked once. tests/kube_server.py starts them.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

var servers = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
}

// Runs the server that the program is called.
func main() {
	name := filepath.Base(os.Args[0])
	server, known := servers[name]
	if !known {
		fmt.Fprintf(os.Stderr, "%s: no such server; link this program as kube-apiserver, kube-controller-manager "+
			"or kube-scheduler\n", name)
		os.Exit(64)
	}
	os.Exit(cli.Run(server()))
}
