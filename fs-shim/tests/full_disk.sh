#!/usr/bin/env bash
# Stores on file systems that are full: makes small ones on loop devices (root), ext4 (with blocks of 4 KiB
# and of 1 KiB) and tmpfs always, btrfs
# with and without copy on write where mkfs.btrfs is installed, and runs tests/full_disk.rs on each.
# It says which it ran on; one that it could not run on is not counted as passed.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/freeze/needs.sh
needs mkfs.ext4
needs_mount ext4
# Where it must not be left out.
if [ "${UNDERPIN_REQUIRE_MOUNTS:-}" = 1 ]; then needs mkfs.btrfs && needs_mount btrfs; fi

cargo test -p underpin-fs --test full_disk --no-run
folder=$(mktemp -d)
# In memory: btrfs commits thousands of times, which takes minutes on a disk.
mount -t tmpfs -o size=1g tmpfs "$folder"
mounted=()
leave() {
  for mount in "${mounted[@]}"; do umount "$mount" || true; done
  umount "$folder" && rmdir "$folder"
}
trap 'exit 130' INT TERM HUP
trap leave EXIT

ran=()
on() { # kind, megabytes, options of mkfs
  local kind=$1 size=$2 image=$folder/$1.img mount=$folder/$1
  shift 2
  mkdir "$mount"
  if [ "$kind" = tmpfs ]; then
    mount -t tmpfs -o "size=${size}m" tmpfs "$mount"
  else
    truncate -s "${size}M" "$image"
    "mkfs.${kind%%-*}" -q "$@" "$image" >/dev/null
    mount -o loop "$image" "$mount"
  fi
  mounted+=("$mount")
  # Every file that is made in it is without copy on write.
  [[ $kind != *-nocow ]] || chattr +C "$mount"
  echo "== $kind, $size MiB"
  UNDERPIN_FULL_DISK=$mount UNDERPIN_FULL_DISK_KIND=$kind \
    cargo test -q -p underpin-fs --test full_disk -- --nocapture
  ran+=("$kind")
}
on ext4 48 -m 0 -F -b 4096
on ext4-1k 48 -m 0 -F -b 1024
on tmpfs 48
if command -v mkfs.btrfs >/dev/null; then
  on btrfs 256
  on btrfs-nocow 256
else
  echo "not run on btrfs: mkfs.btrfs is not installed (btrfs-progs)"
fi
echo "full disks: ${ran[*]}"
