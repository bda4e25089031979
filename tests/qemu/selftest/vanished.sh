# A run whose directory is removed while it runs is noticed, and by that name
#: notice has vanished while the guest ran
ok "before it is removed"
monitor vanish
