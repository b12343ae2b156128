"""Lists the tests that a run skipped, and why: `skips.py REPORT.xml`, pytest's JUnit report."""

import pathlib
import sys
import xml.etree.ElementTree as ET


def lines(report: pathlib.Path) -> list[str]:
  """Returns what to say of a run; the report is named after it."""
  skipped = [
    f'make {report.stem} skipped {case.get("classname")}.{case.get("name")}: {skip.get("message")}'
    for case in ET.parse(report).iter('testcase')  # noqa: S314 - pytest has just written it
    for skip in case.iter('skipped')
  ]
  return skipped or [f'make {report.stem} skipped no test']


print(*lines(pathlib.Path(sys.argv[1])), sep='\n')
