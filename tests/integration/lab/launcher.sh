#!/bin/bash
# launcher.sh DIRECTORY: a container as KubeVirt's compute, in namespaces of its own: libvirtd of a session of nobody's, and
# the domain DIRECTORY.xml, below a DIRECTORY whose files nobody outside sees. PID 1 is nobody's, too. It says "ready".
set -e
mount -t tmpfs tmpfs "$1"
cp "$1.xml" "$1/domain.xml"
cd "$1"
mkdir -p run config/libvirt cache data tmp
chmod 700 run
chmod 1777 tmp
chown -R nobody . --preserve-root
chmod 1777 tmp
export HOME="$1" XDG_RUNTIME_DIR="$1/run" XDG_CONFIG_HOME="$1/config" XDG_CACHE_HOME="$1/cache" XDG_DATA_HOME="$1/data"
as="setpriv --reuid=nobody --regid=65534 --clear-groups"
$as libvirtd >log 2>&1 &
for _ in $(seq 200); do
    [ -S run/libvirt/libvirt-sock ] && break
    sleep 0.1
done
ln -s libvirt-sock run/libvirt/virtqemud-sock # this libvirt has one daemon for all
$as virsh -q -c qemu:///session create domain.xml
echo ready
exec $as sleep 120
