"""`python -m semclip_eval` is `semclip-eval`."""

import sys

from semclip_eval.cli import main

sys.exit(main())
