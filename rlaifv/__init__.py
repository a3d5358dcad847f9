"""RLAIF-V as one resumable command: feedback from open models, preference pairs, DPO, and again."""

import logging

# peft imports it where it is installed; it then warns of a kernel that is not there, for which nothing here has a use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
