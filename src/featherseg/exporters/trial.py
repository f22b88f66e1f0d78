"""Trial: the weights as one .safetensors file with the metadata of an exported file; nothing of the graph."""

from safetensors.torch import save_file

from featherseg.exporters.job import Job


def write(job: Job) -> None:
    """model.safetensors in the job's folder. No runtime opens it."""
    state = {key: value.contiguous() for key, value in job.model.state_dict().items()}
    known = {f"featherseg.{key}": text for key, text in job.metadata.items()}
    save_file(state, job.folder / "model.safetensors", known)
