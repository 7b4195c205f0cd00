# CUDA: docker build -t volad .
# CPU:  docker build -t volad --build-arg PIP_OPTIONS="--index-url URL" . with the URL of the CPU
#       wheels that pytorch.org names: they are a tenth of the size.
# Run:  docker run --rm --network none --read-only --tmpfs /tmp --gpus all \
#           -v IN:/input:ro -v OUT:/output volad
#       Any user id works: add --user "$(id -u):$(id -g)" to own the results.
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG TORCH=torch==2.13.0
ARG PIP_OPTIONS=
RUN pip install --no-cache-dir ${PIP_OPTIONS} "${TORCH}"

WORKDIR /opt/volad
COPY pyproject.toml README.md LICENSE ./
COPY volad volad
COPY bundles bundles
RUN pip install --no-cache-dir . && rm -rf /opt/volad

# MONAI looks its user up on import, which fails under a UID without a passwd entry.
ENV USER=volad LOGNAME=volad HOME=/tmp MPLCONFIGDIR=/tmp \
    HOLOSCAN_INPUT_PATH=/input HOLOSCAN_OUTPUT_PATH=/output
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["volad"]
CMD ["segment"]
