#!/bin/bash
# Boots this machine's own systemd as process 1 of a throw-away container of namespaces, on an overlay of the root: to test units.
# Stays in the foreground; the container dies with it. Needs root, systemd, overlayfs, and a cgroup2 hierarchy. The host's network
# is shared, its enabled units are not.
#   systemd-boot.sh FOLDER CGROUP UNITS SOURCE:TARGET…
#     FOLDER   empty, for mount points      UNITS        copied to /etc/systemd/system
#     CGROUP   an empty cgroup of its own   SOURCE:TARGET  mounted into it
set -euo pipefail
export D=$1 G=$2 UNITS=$3; shift 3; export BIND="$*"

inner() {
  set -e
  mount --make-rprivate /
  R=$D/root
  mount -t tmpfs -o mode=755 tmpfs "$D/rw"; mkdir -p "$D/rw/upper" "$D/rw/work"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$D/rw/upper,workdir=$D/rw/work" "$R"
  mount -t proc proc "$R/proc"
  mount -t sysfs -o ro sysfs "$R/sys"
  mount -t tmpfs -o mode=755,nosuid,strictatime tmpfs "$R/dev"
  for n in null zero full random urandom tty; do touch "$R/dev/$n"; mount --bind "/dev/$n" "$R/dev/$n"; done
  mkdir -p "$R/dev/pts" "$R/dev/shm" "$R/dev/mqueue"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"; ln -s pts/ptmx "$R/dev/ptmx"
  mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm"
  ln -s /proc/self/fd "$R/dev/fd"; ln -s fd/0 "$R/dev/stdin"; ln -s fd/1 "$R/dev/stdout"; ln -s fd/2 "$R/dev/stderr"
  : > "$R/dev/console"; mount --bind "$D/console.log" "$R/dev/console"
  mount -t tmpfs -o mode=755 tmpfs "$R/run"; mkdir -p "$R/run/lock" "$R/run/host"
  mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
  # Nothing of the host's enabled units: only sysinit, basic, dbus and the journal.
  rm -rf "$R/etc/systemd/system"; mkdir -p "$R/etc/systemd/system"
  for u in systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service \
    systemd-timesyncd.service systemd-resolved.service systemd-networkd.service systemd-firstboot.service \
    systemd-modules-load.service systemd-sysctl.service systemd-remount-fs.service kmod-static-nodes.service \
    systemd-random-seed.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    systemd-journal-flush.service systemd-machine-id-commit.service systemd-logind.service getty.target \
    console-getty.service ifupdown-pre.service networking.service e2scrub_reap.service apt-daily.timer \
    systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pcrphase-initrd.service; do
    ln -sf /dev/null "$R/etc/systemd/system/$u"; done
  ln -sf /lib/systemd/system/multi-user.target "$R/etc/systemd/system/default.target"
  : > "$R/etc/fstab"; [ -s "$R/etc/machine-id" ] || tr -d - < /proc/sys/kernel/random/uuid > "$R/etc/machine-id"
  mkdir -p "$R/etc/systemd/journald.conf.d"
  printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' > "$R/etc/systemd/journald.conf.d/test.conf"
  cp -r "$UNITS"/. "$R/etc/systemd/system/"
  for b in $BIND; do s=${b%%:*}; t=${b#*:}
    if [ -d "$s" ]; then mkdir -p "$R$t"; else mkdir -p "$(dirname "$R$t")"; touch "$R$t"; fi
    mount --bind "$s" "$R$t"; done
  # After the sources of the mounts were needed.
  mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
  hostname stepd-test
  cd "$R"; mkdir -p .oldroot; pivot_root . .oldroot
  umount -l /.oldroot 2>/dev/null || true; rmdir /.oldroot 2>/dev/null || true
  # systemd leaves this to whoever made the container; credentials and sandboxes need it.
  mount --make-rshared /
  exec env -i container=stepd-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=console --show-status=0 --log-level=info < /dev/null > /dev/console 2>&1
}
export -f inner

mkdir -p "$D/root" "$D/rw"; : > "$D/console.log"
echo $BASHPID > "$G/cgroup.procs"
exec unshare --pid --fork --mount --uts --ipc --cgroup --kill-child bash -c inner < /dev/null >> "$D/console.log" 2>&1
