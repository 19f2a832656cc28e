#!/bin/sh
# Fetches what tests need beside Python packages, once: the TypeScript SDKs, Chromium and the example that runs in it, and
# PostgreSQL. What cannot be had it names in one line, and pytest leaves those tests out and says so as well: it finds a
# marker, or no server.
set -eu
cd "$(dirname "$0")/../.."

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    echo "setup: installing $*"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1
}

have_npm() { command -v npm >/dev/null 2>&1 || apt_install nodejs npm; }

have_chromium() {
    for name in chromium chromium-browser google-chrome; do
        ! command -v $name >/dev/null 2>&1 || return 0
    done
    apt_install chromium
}

# Debian keeps the server's programs out of PATH.
have_postgres() {
    command -v postgres >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ||
        apt_install postgresql
}

# Installed again only when what is asked for has changed.
npm_install() (
    cd "$1"
    cmp -s package.json node_modules/.installed && exit 0
    npm install --no-audit --no-fund --no-package-lock --loglevel=error >/dev/null && cp package.json node_modules/.installed
)

leave_out() {
    mkdir -p "$1/node_modules"
    echo "$3" >"$1/node_modules/UNAVAILABLE"
    echo "setup: the $2 tests are left out: $3"
}

typescript() {
    folder=tests/typescript
    rm -f $folder/node_modules/UNAVAILABLE
    have_npm || { leave_out $folder "TypeScript SDKs'" "node and npm are missing and could not be installed"; return; }
    npm_install $folder || leave_out $folder "TypeScript SDKs'" "npm could not install the SDKs"
}

browser() {
    folder=deploy/examples/ai-sdk
    rm -f $folder/node_modules/UNAVAILABLE
    have_npm || { leave_out $folder "browser" "node and npm are missing and could not be installed"; return; }
    have_chromium || { leave_out $folder "browser" "Chromium is missing and could not be installed"; return; }
    { npm_install $folder && npm run --silent --prefix $folder build >/dev/null 2>&1; } ||
        leave_out $folder "browser" "npm could not install or build $folder"
}

# The console's pages are looked at in the same browser, with axe-core.
dashboard() {
    folder=tests/console
    rm -f $folder/node_modules/UNAVAILABLE
    have_npm || { leave_out $folder "dashboard" "node and npm are missing and could not be installed"; return; }
    have_chromium || { leave_out $folder "dashboard" "Chromium is missing and could not be installed"; return; }
    npm_install $folder || leave_out $folder "dashboard" "npm could not install axe-core"
}

typescript
browser
dashboard
have_postgres || echo "setup: the ledger's tests use SQLite only: PostgreSQL is missing and could not be installed"
