#!/bin/sh
# Make what compose.yaml and kubernetes/ need and nobody else may know. What exists already stays as it is.
#   deploy/.env                    the admin token
#   deploy/secrets/redis-password  with which asgiws logs in to Redis
#   deploy/secrets/users.acl       the accounts of Redis, with a hash of that password
# Only you can enter deploy/secrets; the users of the containers can read the files that are mounted there.
set -eu
cd "$(dirname "$0")"
umask 077
test -s .env || echo "ASGIWS_ADMIN_TOKEN=$(openssl rand -hex 24)" >.env
mkdir -p secrets
test -s secrets/redis-password || openssl rand -hex 24 >secrets/redis-password
hash=$(tr -d '\n' <secrets/redis-password | openssl dgst -sha256 -r | cut -d ' ' -f 1)
sed "s/PASSWORD_SHA256/$hash/" redis/users.acl >secrets/users.acl
chmod 644 secrets/redis-password secrets/users.acl
