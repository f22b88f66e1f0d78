#!/usr/bin/env bash
# Installs Debian's Chromium for the tests of the pages, where that may be done; elsewhere these tests say that they skip.
set -euo pipefail

[ -x /usr/bin/chromium ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "browser: no /usr/bin/chromium; the tests of the pages are skipped. On Debian: apt-get install chromium"
    exit 0
fi
install() {
    timeout 300 apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq install -y --no-install-recommends chromium
}
echo "browser: installing Debian's chromium for the tests of the pages"
install >/dev/null 2>&1 || echo "browser: that failed; the tests of the pages are skipped"
