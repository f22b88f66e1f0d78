#!/usr/bin/env bash
# Installs what some tests need from Debian, where that may be done: Chromium for the pages, nginx for the service
# behind a proxy, strace to see every file and look-up. Without them tests are skipped, and say so, or see less.
set -euo pipefail

packages=()
[ -x /usr/bin/chromium ] || packages+=(chromium)
[ -x /usr/bin/strace ] || packages+=(strace)
# where systemd runs, Debian's package would start a server on port 80
[ -x /usr/sbin/nginx ] || [ -d /run/systemd/system ] || packages+=(nginx-light)
[ ${#packages[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests: without ${packages[*]} some are skipped. On Debian: apt-get install ${packages[*]}"
    exit 0
fi
install() {
    timeout 300 apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq install -y --no-install-recommends "${packages[@]}"
}
echo "tests: installing Debian's ${packages[*]}"
install >/dev/null 2>&1 || echo "tests: that failed; some tests are skipped"
