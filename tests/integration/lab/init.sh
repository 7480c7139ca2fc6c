#!/bin/busybox sh
# The guest's /init: fill some memory with things of all kinds, tell what the tests want to know, say READY, and sleep.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /mnt /sbin
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b --install -s /bin
exec < /dev/console > /dev/console 2>&1
PATH=/bin
for module in /*.ko; do [ -e "$module" ] && insmod "$module"; done
echo "LAB vmcoreinfo $(cat /sys/kernel/vmcoreinfo)"
echo 0 > /proc/sys/kernel/kptr_restrict
grep -E ' (_text|_stext|_etext|_end|init_task|linux_banner|swapper_pg_dir|init_top_pgt)$' /proc/kallsyms | sed 's/^/LAB sym /'
mount -t tmpfs tmpfs /mnt
dd if=/dev/zero of=/mnt/zeros bs=64k count=32 2> /dev/null
dd if=/dev/urandom of=/mnt/random bs=64k count=64 2> /dev/null
yes "A line of text in the page cache, over and over." | head -c 4194304 > /mnt/text
awk 'BEGIN { s = "compressible anonymous memory "; while (length(s) < 4194304) s = s s; system("sleep 1000000"); print s }' &
dd if=/dev/urandom of=/mnt/freed bs=64k count=64 2> /dev/null
rm /mnt/freed
if [ -e /rich.sh ]; then . /rich.sh; fi
sleep 1
echo "LAB tasks $(ps | grep -c .)"
echo "LAB-READY"
while :; do sleep 1000000; done
