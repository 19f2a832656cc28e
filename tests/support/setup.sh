#!/bin/sh
# Fetches what the TypeScript SDK's tests need, once. Where that cannot be had it says so in one line and leaves a
# marker, which makes pytest leave those tests out and say so as well.
set -eu
cd "$(dirname "$0")/../typescript"
marker=node_modules/UNAVAILABLE

leave_out() {
    mkdir -p node_modules
    echo "$1" >"$marker"
    echo "setup: the TypeScript SDK's tests are left out: $1"
    exit 0
}

rm -f "$marker"
if ! command -v npm >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing Node.js for the TypeScript SDK's tests"
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm; } >/dev/null 2>&1 ||
            leave_out "node and npm are missing, and apt-get could not install them"
    else
        leave_out "node and npm are missing"
    fi
fi

# Installed again only when what is asked for has changed.
if ! cmp -s package.json node_modules/.installed; then
    npm install --no-audit --no-fund --no-package-lock --loglevel=error >/dev/null ||
        leave_out "npm could not install the SDK"
    cp package.json node_modules/.installed
fi
