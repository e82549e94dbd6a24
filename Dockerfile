# Runs the two commands of the README while the image is built, so that the image holds a trained
# model. UNTESTED: no Docker was at hand; tests/test_dockerfile.py only compares it with the README.
#
#     docker build -t breeze .
#     docker run -it breeze

FROM python:3.11-slim

# make, and the C++ compiler of the native kernels (model/native).
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*

# The folder .cache is made here, because the mount below would leave it to root.
RUN useradd --create-home --uid 1000 breeze \
    && install --directory --owner breeze /home/breeze/.cache /home/breeze/work
USER breeze
WORKDIR /home/breeze/work

# The installation is a layer of its own, built again only when its two files change. There is no
# NVIDIA driver here, so the Makefile installs the CPU wheels of PyTorch.
COPY --chown=breeze Makefile pyproject.toml constraints.txt README.md ./
RUN --mount=type=cache,target=/home/breeze/.cache/pip,uid=1000 \
    make setup

COPY --chown=breeze . .
RUN make train
RUN .venv/bin/python -m scripts.sample runs/quickstart --prompt "Once upon a time" --max-tokens 150

ENV PATH=/home/breeze/work/.venv/bin:$PATH
CMD ["bash"]
