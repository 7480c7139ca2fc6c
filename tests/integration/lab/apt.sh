# Debian packages of any suite and architecture, without root and without touching those of the machine. Source this file.
#
# apt_in DIRECTORY SUITE ARCHITECTURE: fetch the suite's lists into DIRECTORY.
# private_apt TOOL ARGUMENTS...: apt-get or apt-cache with those lists.

apt_in() {
    apt=$1 apt_architecture=$3
    local mirror
    mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
    [ -n "$mirror" ] || mirror=$(awk '$1 == "deb" && $2 ~ /debian\/?$/ { print $2; exit }' /etc/apt/sources.list 2>/dev/null)
    [ -n "$mirror" ] || { echo "no Debian mirror in apt's sources" >&2; return 1; }
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/none"
    : > "$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $2 main" > "$apt/sources.list"
    private_apt apt-get -qq update
}

private_apt() {
    local tool=$1
    shift
    "$tool" -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/none" \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$apt/none" \
        -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" \
        -o Dir::Cache="$apt/cache" -o APT::Architecture="$apt_architecture" -o APT::Architectures="$apt_architecture" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}
