# CUDA: docker build -t volad:0.1.0 .
# CPU:  docker build -t volad:0.1.0 --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL .
#       with the URL of the CPU wheels that pytorch.org names.
# A package mirror: --secret id=pip,src=pip.conf; pip's settings are in no layer.
# Run:  docker run --rm --network none --read-only --tmpfs /tmp --gpus all \
#           --user "$(id -u):$(id -g)" -v IN:/input:ro -v OUT:/output volad:0.1.0
# Without Docker, `tools/container` builds and runs it (deploy/README.md).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/container/constraints.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/volad && /opt/volad/bin/pip install -q -c constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > wanted.txt
COPY volad volad
COPY bundles bundles
RUN /opt/volad/bin/pip install -q --no-index --no-deps --no-build-isolation --prefix /built .

FROM ${BASE}
# What changes least comes first: torch, then the other libraries, then volad itself.
WORKDIR /opt/volad
COPY deploy/container/constraints.txt ./
ARG DEVICE=cuda
ARG TORCH_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    case ${DEVICE} in cpu) torch=torch==2.13.0+cpu;; cuda) torch=torch===2.13.0;; \
        *) echo "DEVICE is cpu or cuda, not ${DEVICE}" >&2; exit 2;; esac \
    && python3 -m venv . \
    && bin/pip install -q --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "${torch}"
COPY --from=build /src/wanted.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    bin/pip install -q --no-cache-dir -c constraints.txt -r wanted.txt
COPY --from=build /built ./

# MONAI looks its user up on import, which fails under a UID without a passwd entry.
ENV PATH=/opt/volad/bin:$PATH USER=volad LOGNAME=volad HOME=/tmp MPLCONFIGDIR=/tmp \
    HOLOSCAN_INPUT_PATH=/input HOLOSCAN_OUTPUT_PATH=/output
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["volad"]
CMD ["segment"]
