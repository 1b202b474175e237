# prom/prometheus from Debian's binaries: user nobody, busybox for the health check's wget.
FROM scratch
COPY root/ /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /prometheus /etc/prometheus /tmp && chown 65534:65534 /prometheus
USER 65534:65534
EXPOSE 9090
VOLUME ["/prometheus"]
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
