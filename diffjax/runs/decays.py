"""Decays of learning rates when the end of a run, back from which they count, moves."""

from ml_collections import ConfigDict

from diffjax.runs import checks


def moved(old: ConfigDict, new: ConfigDict, images: int) -> list[str]:
    """Describe each decay that had begun and would begin anew, its learning rate back where it was.

    Args:
      old: config of the run so far.
      new: config that it is to go on by.
      images: seen so far.
    """
    found = []
    for field in checks.rules(new):
        group, _, name = field.rpartition(".")
        if name != "decay_kimg" or not (decay := old.get(group, {}).get("decay_kimg", 0.0)):
            continue
        before, after = old.duration_kimg - decay, new.duration_kimg - checks.get(new, field)
        if before < images / 1000 and before < after:
            found.append(
                f"{group}'s learning rate has been falling since {before:g} kimg, and by "
                f"duration_kimg={new.duration_kimg:g} it is whole again until {after:g} kimg"
            )
    return found
