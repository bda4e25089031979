# What Debian's nvme-cli says of a controller equals what we say, field by field
#: image disk 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: bring nvme
#: artifact ours-identify.json
address=0000:00:04.0
device=$(disk $address)
controller=${device%n1}
nvme id-ctrl "$controller" -o json >/artifacts/theirs-controller.json
nvme id-ns "$device" -o json >/artifacts/theirs-namespace.json
nvme smart-log "$controller" -o json >/artifacts/theirs-smart.json
to_vfio $address
underpin identify pci:$address --json >/artifacts/ours-identify.json
underpin log smart pci:$address --json >/artifacts/ours-smart.json
on-device fields /artifacts/theirs-controller.json /artifacts/ours-identify.json /controller
on-device fields /artifacts/theirs-namespace.json /artifacts/ours-identify.json /namespaces/0/identify
on-device fields /artifacts/theirs-smart.json /artifacts/ours-smart.json ''
