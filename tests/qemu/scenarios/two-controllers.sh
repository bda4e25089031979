# Two controllers of two groups in one space: one container, one buffer for both, and each its own end
#: image disk0 64M
#: image disk1 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk0} -device nvme,serial=one,drive=d0,addr=4
#: qemu -blockdev driver=file,node-name=d1,filename={disk1} -device nvme,serial=two,drive=d1,addr=5
#: timeout 120
first=0000:00:04.0
second=0000:00:05.0
[ "$(group $first)" != "$(group $second)" ] || fail "they are in one group"
to_vfio $first $second
NO_COLOR=1 RUST_LOG=info on-device pair pci:$first pci:$second >/tmp/said 2>&1 || { cat /tmp/said; fail "not both at once"; }
cat /tmp/said
[ "$(grep -c 'opened by VFIO' /tmp/said)" -eq 3 ] || fail "not three openings"
contexts=$(sed -n 's/.*context="\([^"]*\)".*/\1/p' /tmp/said | sort -u)
case $contexts in "vfio container 0" | "vfio iommufd 0") ;; *) fail "not one container: $contexts" ;; esac
ok "both were in $contexts"
