"""``python -m mindspore_offload doctor | estimate | bench``"""

import sys

from mindspore_offload.commands import main

if __name__ == "__main__":
    sys.exit(main())
