# tensorflow/serving as Compose sees it: a program of the same name at the same place that takes the same flags, on an
# image with bash and without curl. Behind it is servekit's embedded server.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3002
USER 0:0
COPY tensorflow_model_server /usr/bin/
ENV SERVEKIT_BIND_ADDRESS=0.0.0.0
EXPOSE 8500 8501
# Like the real one: Compose has to set its own.
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
CMD []
