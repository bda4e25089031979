# What the kernel writes we read, and what we write the kernel reads
#: image disk 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -device nvme,serial=one,drive=d0,addr=4
address=0000:00:04.0
ours() { underpin passthru pci:$address io "$@"; }
piece=65536
for round in 1 2 3; do
  head -c $piece /dev/urandom >/tmp/written
  to_kernel $address
  dd if=/tmp/written of="$(disk $address)" bs=$piece seek=$round oflag=direct 2>/dev/null
  to_vfio $address
  ours --opcode 2 --cdw10 $((round * piece / 512)) --cdw12 $((piece / 512 - 1)) --data-in $piece --binary |
    cmp - /tmp/written || fail "round $round: we read something else"
  head -c $piece /dev/urandom >/tmp/written
  ours --opcode 1 --cdw10 $(((round + 100) * piece / 512)) --cdw12 $((piece / 512 - 1)) --data-out /tmp/written >/dev/null
  to_kernel $address
  dd if="$(disk $address)" bs=$piece skip=$((round + 100)) count=1 iflag=direct 2>/dev/null |
    cmp - /tmp/written || fail "round $round: the kernel reads something else"
  ok "round $round: the kernel writes and we read, we write and the kernel reads"
done
