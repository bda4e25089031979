# Jobs that verify what they wrote: depths, sizes, several queues, and by the kernel afterwards
#: image disk 256M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: file tests/qemu/verify.fio
#: timeout 480
address=0000:00:04.0
to_vfio $address
underpin-fio --eta=never /files/verify.fio >/tmp/report || { cat /tmp/report; fail "a job failed"; }
cat /tmp/report
jobs=$(grep -c 'err= 0' /tmp/report)
# The last of the six has three clones.
[ "$jobs" -eq 8 ] || fail "$jobs of the 8 jobs ended with err= 0"
ok "$jobs jobs verified what they wrote"

to_kernel $address
underpin-fio --eta=never --name=check --ioengine=psync --direct=1 --filename="$(disk $address)" --size=64m \
  --bs=4k --rw=write --verify=crc32c --verify_only >/tmp/report || { cat /tmp/report; fail "the kernel reads something else"; }
ok "the kernel reads what the first job wrote"
