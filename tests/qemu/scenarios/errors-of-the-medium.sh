# Errors of the medium have the status that belongs to them
#: image disk 64M
#: qemu -blockdev driver=file,node-name=f0,filename={disk}
#: qemu -blockdev '{"driver":"blkdebug","node-name":"b0","image":"f0","inject-error":[{"event":"none","iotype":"read","sector":128,"errno":5,"once":false},{"event":"none","iotype":"write","sector":256,"errno":5,"once":false},{"event":"none","iotype":"flush","errno":5,"once":false}]}'
#: qemu -blockdev driver=raw,node-name=d0,file=b0
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: append initcall_blacklist=nvme_init
to_vfio 0000:00:04.0
status() { # WHAT WANTED ARGUMENTS...: how a command of `underpin passthru` ends
  local what=$1 wanted=$2 said
  shift 2
  if said=$(underpin passthru pci:0000:00:04.0 io "$@" 2>&1 >/dev/null); then fail "$what goes well"; fi
  case $said in *"$wanted"*) ok "$what: $wanted" ;; *) fail "$what: $said" ;; esac
}
head -c 512 /dev/zero >/tmp/block
underpin passthru pci:0000:00:04.0 io --opcode 2 --cdw10 127 --data-in 512 >/dev/null
ok "a block before the bad one"
status "a read" "Unrecovered Read Error" --opcode 2 --cdw10 128 --data-in 512
status "a write" "Write Fault" --opcode 1 --cdw10 256 --data-out /tmp/block
status "a flush" "Write Fault" --opcode 0
