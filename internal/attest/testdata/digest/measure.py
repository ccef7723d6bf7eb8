"""Asks sev-snp-measure for the launch digest of many guests in one process.

Run by digest_test.go with the interpreter of the tool's own environment: one JSON
document a line in, one digest a line out.
"""

import base64
import json
import pathlib
import sys
import tempfile

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            case = json.loads(line)
            paths = {}
            for name in ("ovmf", "kernel", "initrd"):
                paths[name] = None
                if case[name]:
                    path = pathlib.Path(folder, name)
                    path.write_bytes(base64.b64decode(case[name]))
                    paths[name] = str(path)
            signature = vcpu_types.CPU_SIGS[case["type"]] if case["type"] else case["signature"]
            digest = guest.calc_launch_digest(
                SevMode.SEV_SNP, case["vcpus"], signature, paths["ovmf"], paths["kernel"], paths["initrd"],
                case["append"] if case["kernel"] else None, case["features"], vmm_type=VMMType.QEMU)
            print(digest.hex(), flush=True)


if __name__ == "__main__":
    main()
