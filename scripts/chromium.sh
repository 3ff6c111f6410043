#!/bin/sh
# Find a browser for the browser tests that runs, or, as root on a system with apt, install one.
set -eu

runs() {
  "$1" --version > /dev/null 2>&1
}

found() {
  for name in chromium chromium-browser google-chrome; do
    if runs "$name"; then
      return 0
    fi
  done
  return 1
}

if [ -n "${RADAPT_TEST_BROWSER:-}" ]; then
  if runs "$RADAPT_TEST_BROWSER"; then
    exit 0
  fi
  echo "RADAPT_TEST_BROWSER names $RADAPT_TEST_BROWSER, which does not run" >&2
  exit 1
fi
if found; then
  exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if apt-get update && apt-get install --yes --no-install-recommends chromium && found; then
    exit 0
  fi
fi
echo "the browser tests need Chromium: install it, or name one in RADAPT_TEST_BROWSER" >&2
exit 1
