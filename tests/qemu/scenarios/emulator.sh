# The conformance suite on the embedded device, on another kernel and processor
#: iommu none
#: timeout 480
UNDERPIN_TEST_DEVICE='emu:size=32m,ns=2,ns2.lba=4096,queues=4,mqes=256,mdts=5' conformance
