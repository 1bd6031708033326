#!/bin/sh
# Prints the Secrets of deploy/secrets.yaml as manifests with fresh passwords, or those that are named:
#
#   sh deploy/secrets/new.sh | kubectl -n forecasting apply -f -                    # for a trial
#   for name in $(sh deploy/secrets/new.sh --names); do                             # Sealed Secrets, to be kept in git
#     sh deploy/secrets/new.sh $name | kubeseal -n forecasting -o yaml > deploy/overlays/cluster/sealed-$name.yaml
#   done                                                    # and list the files as resources of that overlay
#
# The keys of the backup's object storage are the site's: BACKUP_ACCESS_KEY_ID and BACKUP_SECRET_ACCESS_KEY.
set -eu

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

secret() { # name type key=value…
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n' "$1"
  [ "$2" = Opaque ] || printf '  labels:\n    cnpg.io/reload: "true"\n'
  printf 'type: %s\nstringData:\n' "$2"
  shift 2
  for pair in "$@"; do printf '  %s: "%s"\n' "${pair%%=*}" "${pair#*=}"; done
}

one() {
  password=$(random)
  case $1 in
    forecast-postgres-dagster) secret "$1" kubernetes.io/basic-auth username=forecast "password=$password" ;;
    forecast-postgres-instance)
      secret "$1" kubernetes.io/basic-auth username=dagster "password=$password" "postgresql-password=$password" ;;
    forecast-postgres-trainer) secret "$1" kubernetes.io/basic-auth username=trainer "password=$password" ;;
    forecast-postgres-service) secret "$1" kubernetes.io/basic-auth username=service "password=$password" ;;
    forecast-redis) secret "$1" Opaque "password=$password" "url=redis://:$password@forecast-redis:6379/0" ;;
    forecast-service) secret "$1" Opaque "api-key=$password" ;;
    forecast-backup)
      secret "$1" Opaque "access-key-id=${BACKUP_ACCESS_KEY_ID:-}" "secret-access-key=${BACKUP_SECRET_ACCESS_KEY:-}" ;;
    *) echo "there is no Secret $1: sh $0 --names lists them" >&2; exit 2 ;;
  esac
}

names=$(sed -n 's/^\([a-z-]*\):.*/\1/p' "$(dirname "$0")/../secrets.yaml")
if [ "${1:-}" = --names ]; then
  echo "$names"
else
  for name in ${*:-$names}; do one "$name"; done
fi
