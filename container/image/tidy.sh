# Sourced at the end of a RUN: removes what only a build needs, and gives what this RUN wrote the time SOURCE_DATE_EPOCH, so that
# the same inputs give the same layer. Files of the layers below stay as they are: a touched one would be stored again.
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/dpkg/*-old \
    /var/log/apt /var/log/*.log /root/.cache /tmp/* /tmp/.[!.]*
# SECONDS counts from the start of the RUN's shell. The two files of /etc are the builder's, mounted read-only.
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /mnt -o -path /etc/hosts -o -path /etc/resolv.conf \) -prune \
    -o -newerct "@$((EPOCHSECONDS - SECONDS - 1))" -print0 |
    xargs -0r touch --no-dereference --date "@$SOURCE_DATE_EPOCH"
