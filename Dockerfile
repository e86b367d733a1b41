# An image without privileges: user 11211, no shell needed, no writes except to /data and /dev/shm.
# If the container runtime forbids io_uring, threads read and write flash; this needs no setting.
#   docker build -t extant .
#   docker run -p 11211:11211 -v cache:/data --stop-timeout 120 extant -m 1024 -o ext_path=/data/flash:50g,ext_persist
# A stop with ext_persist writes all of RAM to flash; without --stop-timeout Docker kills it after 10 s, and the
# next start is empty.
FROM debian:12-slim AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends make
WORKDIR /src
COPY . .
RUN scripts/install-deps.sh build && make -j"$(nproc)" extant

FROM debian:12-slim
RUN apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends libblkid1 libevent-core-2.1-7 \
        libevent-extra-2.1-7 liburing2 libjemalloc2 libisal2 libssl3 && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --system --uid 11211 --user-group --no-create-home extant && \
    install -d -o extant -g extant /data
COPY --from=build /src/extant /usr/local/bin/extant
USER 11211:11211
VOLUME /data
EXPOSE 11211 9150
STOPSIGNAL SIGTERM
ENTRYPOINT ["extant"]
CMD ["-m", "64"]
