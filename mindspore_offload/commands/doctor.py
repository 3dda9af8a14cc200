# SPDX-License-Identifier: Apache-2.0

"""``doctor``: checks that everything works on this machine, and says what to do where it does not."""

import json

from mindspore_offload.diagnosis import examination
from mindspore_offload.diagnosis.finding import FAILED

HELP = "prints checks of everything that is used on this machine, and a cure for each fault"


def add_options(parser):
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments):
    """Prints the findings. Returns 0 if everything works that the optimizer uses by default, else 1."""
    findings = []
    for finding in examination.findings():
        findings.append(finding)
        if not arguments.json:
            print(finding)
    healthy = all(finding.state != FAILED for finding in findings)
    if arguments.json:
        print(json.dumps({"healthy": healthy, "findings": [finding._asdict() for finding in findings]}, indent=2))
    else:
        print("\nEverything that is used by default works." if healthy else "\nNot everything works: see above.")
    return 0 if healthy else 1
