# grafana/grafana as Compose sees it: user 472, /api/health, a data folder of its own. Grafana itself is in no archive.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
COPY busybox /bin/wget
COPY grafana.py /
RUN mkdir -p /var/lib/grafana && chown 472:0 /var/lib/grafana
USER 472:0
EXPOSE 3000
ENTRYPOINT ["python", "/grafana.py"]
