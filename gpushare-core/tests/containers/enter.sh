# Makes this namespace of mounts a machine of a test's own for podman, and holds it until standard input ends.
# Of the host's files nothing is changed.
#
#   unshare --mount --propagation private sh enter.sh DIRECTORY PODMAN
#
# DIRECTORY is the test's, PODMAN what fetch-podman fetched. Says `ready` when podman has an image `tiny` of
# busybox, started as DIRECTORY/podman. What it reads is then:
#
#   DIRECTORY/cdi, DIRECTORY/etc-cdi    as /var/run/cdi and /etc/cdi, where alone podman 4 looks
#   /etc/containers, /run, /dev/shm     this namespace's own
#   its own libraries                   beside the machine's: conmon starts podman again, hooks too are
#                                       started, and neither would have a variable that says where they are
set -eu
directory=$1 podman=$2

[ /var/run -ef /run ] || { echo "/var/run is not /run here" >&2; exit 1; }
mount -t tmpfs none "$directory/layers"
for covered in /etc /run; do
    mkdir -p "$directory/layers$covered" "$directory/layers/work$covered"
    mount -t overlay none -o "lowerdir=$covered,upperdir=$directory/layers$covered,workdir=$directory/layers/work$covered" "$covered"
done
for libraries in "$podman"/usr/lib/*-linux-gnu*; do
    there=/usr/lib/${libraries##*/}
    mount -t overlay none -o "ro,lowerdir=$libraries:$there" "$there"
done
# podman keeps its locks there, one file for all podmans of a machine.
mount -t tmpfs none /dev/shm
mkdir -p /etc/cdi /run/cdi /etc/containers
mount --bind "$directory/cdi" /run/cdi
mount --bind "$directory/etc-cdi" /etc/cdi
mount -t tmpfs none /etc/containers

cat >/etc/containers/containers.conf <<END
[engine]
conmon_path = ["$podman/usr/bin/conmon"]
END
cat >/etc/containers/storage.conf <<END
[storage]
driver = "vfs"
graphroot = "$directory/root"
runroot = "$directory/runroot"
END
: >/etc/containers/registries.conf
echo '{"default": [{"type": "reject"}], "transports": {"tarball": {"": [{"type": "insecureAcceptAnything"}]}}}' \
    >/etc/containers/policy.json

# Started again by conmon it gets these options, all but --conmon.
cat >"$directory/podman" <<END
#!/bin/sh
exec "$podman/usr/bin/podman" --root "$directory/root" --runroot "$directory/runroot" \\
    --tmpdir "$directory/tmp" --storage-driver vfs --cgroup-manager cgroupfs --events-backend file \\
    --runtime "$podman/usr/bin/runc" --conmon "$podman/usr/bin/conmon" "\$@"
END
chmod 755 "$directory/podman"

image=$directory/image
mkdir -p "$image/bin" "$image/dev" "$image/etc" "$image/proc" "$image/sys" "$image/tmp"
cp "$podman/bin/busybox" "$image/bin"
for name in $("$podman/bin/busybox" --list); do
    [ "$name" = busybox ] || ln -s busybox "$image/bin/$name"
done
tar -C "$image" -c . | "$directory/podman" import --quiet - tiny >/dev/null

echo ready
exec cat >/dev/null
