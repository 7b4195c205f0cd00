# CPU:  docker build -t volad .
# CUDA: docker build -t volad:cuda --build-arg TORCH=torch==2.13.0 --build-arg INDEX= .
# Run:  docker run --rm --network none --read-only --tmpfs /tmp -v IN:/input:ro -v OUT:/output volad segment
ARG BASE=python:3.11-slim
FROM ${BASE}

# A CPU wheel of torch is a tenth of the CUDA one; INDEX= (empty) takes the default CUDA wheel.
ARG TORCH=torch==2.13.0
ARG INDEX="--index-url https://download.pytorch.org/whl/cpu"
RUN pip install --no-cache-dir ${INDEX} "${TORCH}"

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
