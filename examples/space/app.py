"""The playground as a Space of the Hugging Face hub, or in a container: reachable from outside, on port 7860."""

from __future__ import annotations

import radapt

if __name__ == "__main__":
    radapt.ui.launch(["micro/clip", "micro/llava", "micro/qwen-vl"], host="0.0.0.0", port=7860).wait()
