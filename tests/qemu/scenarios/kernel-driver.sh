# The guest itself: the kernel's driver, its move to VFIO and back, and our tools on what they find
#: image disk 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -device nvme,serial=one,drive=d0,addr=4
address=0000:00:04.0
[ "$(nvme_functions)" = $address ] || fail "the bus has not the one function that it should"

head -c 1048576 /dev/urandom >/tmp/written
dd if=/tmp/written of="$(disk $address)" bs=64k oflag=direct 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
dd if="$(disk $address)" bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/written
ok "the kernel reads what it wrote"

underpin list >/tmp/list
grep -q "$address.*nvme" /tmp/list || fail "underpin list does not see it: $(cat /tmp/list)"
ok "underpin list sees the function and the kernel's driver"

to_vfio $address
[ -c "/dev/vfio/$(group $address)" ] || fail "VFIO offers no group $(group $address)"
underpin list | grep -q "$address.*vfio-pci" || fail "underpin list does not see VFIO"
ok "bound to vfio-pci, and underpin list sees it"

to_kernel $address
dd if="$(disk $address)" bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/written
ok "back at the kernel's driver, the data is there"
