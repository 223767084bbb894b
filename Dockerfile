# A static binary, its configuration, its data folder; no shell, no libraries, not root.
#
#   docker build -t millstream .
#   docker buildx build --platform linux/amd64,linux/arm64 -t millstream .
#
# Run by compose.yaml, or:
#
#   docker run -p 127.0.0.1:1883:1883 -p 127.0.0.1:9092:9092 -v millstream:/var/lib/millstream \
#     -e MILLSTREAM__MQTT__ALLOW_ANONYMOUS=true -e MILLSTREAM__KAFKA__ALLOW_ANONYMOUS=true \
#     -e MILLSTREAM__KAFKA__ADVERTISED=127.0.0.1:9092 millstream
#
# Without users (password_file) or the two ALLOW_ANONYMOUS it refuses to start: every interface of the
# container is served, and anyone who reaches it could read and write everything.

# On the machine that builds, whatever it builds for: cargo-zigbuild compiles across.
FROM --platform=$BUILDPLATFORM rust:1.95-slim-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
# CI runs the same command, and what it makes.
RUN .ci/cross image "$TARGETARCH" /image

FROM scratch
COPY --from=build /image/etc /etc
COPY --from=build /image/usr /usr
COPY --from=build --chown=10001:10001 /image/var /var
USER 10001:10001
VOLUME /var/lib/millstream
# MQTT, Kafka, health and metrics; with a configuration of your own the TLS and WebSocket ones.
EXPOSE 1883 9092 9180 8883 8083 8084 9093
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/usr/local/bin/millstream", "health"]
ENTRYPOINT ["/usr/local/bin/millstream"]
CMD ["serve", "--config", "/etc/millstream/millstream.toml"]
