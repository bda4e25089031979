# What a guest leaves in /artifacts comes to the host
#: artifact something
#: artifact folder/more
ok "there is something"
echo something >/artifacts/something
mkdir /artifacts/folder
head -c 3000000 /dev/urandom >/artifacts/folder/more
