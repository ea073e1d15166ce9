#!/bin/busybox sh
# The first process of hack/vm's machine, from its initramfs: puts a root together, and runs /job in it.
#
# The root is an overlay: below, over virtiofs, the files of the machine outside (or a fresh Debian tree in them);
# above, a disk of the machine's own. Where containers are stored must be no overlay, so those places are on the
# disk itself.

b=/bin/busybox
fail() { $b echo "hack/vm: cannot $*" >/dev/kmsg; $b poweroff -f; }
bind() { $b mkdir -p "$2" && $b mount -o bind "$1" "$2" || fail "bind $1 to $2"; }
# over LOWER NAME TARGET: mount an overlay whose changes lie on the disk.
over() {
  $b mkdir -p "/disk/$2/upper" "/disk/$2/work" "$3"
  $b mount -t overlay -o "lowerdir=$1,upperdir=/disk/$2/upper,workdir=/disk/$2/work" "$2" "$3" || fail "mount an overlay of $1"
}

$b mkdir -p /proc /sys /dev /outside /disk /root
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
exec </dev/null >/dev/kmsg 2>&1  # the kernel found no console in the initramfs: nothing is open yet
while read -r module; do $b insmod "/modules/$module" || fail "load $module"; done </modules/list
. /settings

$b mount -t virtiofs -o ro host /outside || fail "mount the files outside"
$b mount -t ext4 /dev/vda /disk || fail "mount the disk"
over "/outside$tree" root /root
for place in /var/tmp /var/lib/cri-shim; do $b mkdir -p "/disk/place$place"; bind "/disk/place$place" "/root$place"; done
$b chmod 1777 /disk/place/var/tmp
bind "/outside$modules" "/root/lib/modules/$($b uname -r)"
over "/outside$snapshot:/outside$source" source "/root$source"
if [ -n "$systemd" ]; then
  $b mkdir -p /disk/place/tmp && bind /disk/place/tmp /root/tmp && $b chmod 1777 /root/tmp
  case $python_home in /usr | /usr/*) ;; *) bind "/outside$python_home" "/root$python_home" ;; esac
fi

$b mount -o move /proc /root/proc
$b mount -o move /sys /root/sys
$b mount -o move /dev /root/dev
$b mount -t tmpfs -o mode=755 run /root/run
$b mkdir -p /root/run/job
$b cp /job /root/run/job/command
for port in /root/sys/class/virtio-ports/*; do
  $b ln -s "/dev/${port##*/}" "/root/run/job/$($b cat "$port/name")"
done

if [ -n "$systemd" ]; then
  # Its own end is the machine's: whatever way the command ends, nothing waits for a timeout.
  $b cat >/root/etc/systemd/system/job.service <<'UNIT'
[Unit]
Description=the command of hack/vm
After=multi-user.target dbus.service
[Service]
Type=oneshot
ExecStart=/bin/bash -c '/bin/bash /run/job/command </dev/null >/run/job/output 2>&1; echo $? >/run/job/status'
ExecStopPost=/bin/systemctl poweroff -ff
UNIT
  $b mkdir -p /root/etc/systemd/system/multi-user.target.wants
  $b ln -sf ../job.service /root/etc/systemd/system/multi-user.target.wants/job.service
  : >/root/etc/machine-id
  exec $b switch_root /root /sbin/init
fi

$b mkdir -p /root/sys/fs/cgroup /root/dev/shm /root/dev/pts /root/tmp
# As systemd mounts it: nothing inside a cgroup namespace may reach out of it.
$b mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /root/sys/fs/cgroup || fail "mount cgroup2"
for controller in $($b cat /root/sys/fs/cgroup/cgroup.controllers); do
  $b echo "+$controller" >/root/sys/fs/cgroup/cgroup.subtree_control
done
$b mount -t securityfs security /root/sys/kernel/security
$b mount -t bpf bpf /root/sys/fs/bpf
$b mount -t tmpfs shm /root/dev/shm
$b mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts /root/dev/pts
$b mount -t tmpfs -o mode=1777 tmp /root/tmp
$b mkdir -p /root/run/netns
$b cat >/root/run/job/init <<'SCRIPT'
ip link set lo up 2>/dev/null
bash /run/job/command </dev/null >/run/job/output 2>&1
echo $? >/run/job/status
exec busybox poweroff -f
SCRIPT
exec $b switch_root /root /bin/sh /run/job/init
