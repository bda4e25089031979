# A guest that leaves less than it should is noticed
#: artifact something
#: notice the guest left no something
ok "there is nothing"
