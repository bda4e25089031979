# What is allowed need not occur
#: allow undefined-behaviour pci_nvme_ub_
#: allow dmar-fault DMAR
#: allow translation-failure detected
ok "nothing has happened"
