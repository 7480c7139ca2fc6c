# Sourced by init.sh: a log that has wrapped several times, and pages of every class that a dump filter knows.
i=0
line="<7>LAB line"
while [ $i -lt 6000 ]; do
    i=$((i + 1))
    [ $((i % 90)) = 0 ] && line="<7>LAB line"
    line="$line."
    echo "$line$i"
done > /dev/kmsg
mkdir -p /huge /shm /ext
mount -t hugetlbfs none /huge
mount -t tmpfs -o huge=always tmpfs /shm
echo 1 > /sys/kernel/mm/ksm/run
# Linux turns them off where there is less than 512 MiB.
echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
dd if=/dev/zero of=/mnt/swap bs=1M count=24 2> /dev/null
losetup /dev/loop0 /mnt/swap
mkswap /dev/loop0 > /dev/null
swapon /dev/loop0
# ext4 attaches buffers to its pages.
dd if=/dev/zero of=/mnt/disk bs=1M count=16 2> /dev/null
mke2fs -F /mnt/disk > /dev/null 2>&1
losetup /dev/loop1 /mnt/disk
mount -t ext4 /dev/loop1 /ext
dd if=/dev/urandom of=/ext/written bs=64k count=64 2> /dev/null
sync
dd if=/dev/urandom of=/ext/dirty bs=64k count=16 2> /dev/null
pages &
sleep 4
grep -E "Huge|SwapCached|HardwareCorrupted" /proc/meminfo | sed 's/^/LAB /'
