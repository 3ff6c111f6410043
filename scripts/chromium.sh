#!/bin/sh
# Find the browser of the browser tests, or, as root on a system with apt, install it.
set -eu
for name in "${RADAPT_TEST_BROWSER:-chromium}" chromium-browser google-chrome; do
  if command -v "$name" > /dev/null; then
    exit 0
  fi
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
  apt-get update
  apt-get install --yes --no-install-recommends chromium
else
  echo "the browser tests need Chromium: install it, or name one in RADAPT_TEST_BROWSER" >&2
  exit 1
fi
