"""Networks by the names that configs have for them: ours, users' functions, and folders of both.

One door for all: whatever is behind a name comes as a `Network`, whose model is called in one way.
"""

import contextlib
import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffjax.convert import diffusers, generators
from diffjax.convert import teacher as teachers
from diffjax.convert.generators import Pickle
from diffjax.files import digests
from diffjax.files.progress import warn_once
from diffjax.interfaces import Params
from diffjax.models import contract, model_card, record_folder
from diffjax.models import generator as generator_lib
from diffjax.models import teacher as teacher_lib
from diffjax.models.arrays import Arrays
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs
from diffjax.models.model_card import ModelCard
from diffjax.models.record_folder import Origin
from diffjax.models.records import RecordDenoiser, RecordGenerator
from diffjax.models.teacher import Teacher
from diffjax.runs import user_function
from diffjax.runs.user_function import RefusedError

Denoiser = NetworkDenoiser | RecordDenoiser
Model = Denoiser | RecordGenerator


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """Network that a config names.

    Attributes:
      source: its name there.
      model: what it computes.
      init_kwargs: what makes it again: arguments of `from_edm_kwargs`, or an `Origin` as a dict.
      load: reads its parameters, float32.
      content: describes by digests what is there, wherever it lies.
      classes: those that it was trained on; () for all.
      card: what it is.
      origin: the functions that make it, of a user's.
    """

    source: str
    model: Any
    init_kwargs: Mapping[str, Any]
    load: Callable[[], Params]
    content: Callable[[], dict[str, Any]]
    classes: tuple[int, ...] = ()
    card: ModelCard = dataclasses.field(default_factory=ModelCard)
    origin: Origin | None = None

    def record(self) -> Teacher:
        """Give a denoiser as the record that anyone's teacher is, with its parameters."""
        if isinstance(self.model, RecordDenoiser):
            return self.model.teacher
        return self.model.as_teacher(self.load(), classes=self.classes)


def teacher(source: str, *, field: str = "config.teacher") -> Network:
    """Open a denoiser; of ours no parameters are read yet.

    Args:
      source: "module:function", a function without arguments that returns a `models.Teacher`; a
        folder that a run of such a teacher wrote; a folder of diffusers'; or what
        `convert.teacher.load` takes.
      field: name of the setting, for errors.

    Raises:
      RefusedError: in one line: there is no such function, or what it returns can't be used.
      FileNotFoundError: if there is no such file.
      ConnectionError: if it can't be downloaded.
      ValueError: if it is no denoiser.
    """
    if user_function.is_name(source):
        made = user_function.call(source, field=field)
        with refusing():
            return _of_record(made, source, Origin(source, sha256=_files(source)))
    if record_folder.is_one(source):
        network = trained(source, field=field)
        if network.card.kind == model_card.STUDENT:
            raise ValueError(
                f"{field}={source} is {network.card.title}, which makes samples of noise alone "
                "and takes no noise off any more: name a denoiser, such as its own teacher."
            )
        return network
    if diffusers.is_folder(source):
        described = diffusers.describe(source)
        made = described.teacher(described.read_params())
        return dataclasses.replace(
            _of_record(made, source, Origin(source)), content=lambda: _of_diffusers(source)
        )
    ours = field.removeprefix("config.")
    init_kwargs = teachers.describe(source, field=ours)
    return Network(
        source,
        from_edm_kwargs(init_kwargs),
        init_kwargs,
        load=lambda: teachers.load(source, field=ours).params,
        content=lambda: teachers.content(source),
        classes=teachers.classes(source),
        card=teachers.card(source),
    )


def student(
    source: str, of: Network, *, field: str = "config.student", dtype: Any = None
) -> Network:
    """Open a student of another architecture.

    Args:
      source: "module:function", a function of a `models.Teacher` that returns a
        `models.Generator`; or what `convert.generators.describe` takes.
      of: its teacher.
      field: name of the setting, for errors.
      dtype: that a pickle's network computes in; None for float32. A user's function decides that
        by itself.

    Raises:
      RefusedError: in one line: there is no such function or file, or it can't be used.
    """
    if not user_function.is_name(source):
        try:
            pickle = generators.describe(source)
        except (OSError, ValueError) as error:
            raise RefusedError(f"{field}={source}: {error}") from error
        return _of_pickle(source, of, pickle, dtype)
    record = of.record()
    made = user_function.call(source, record, field=field)
    origin = _origin(of)
    origin = dataclasses.replace(origin, student=source, sha256={**origin.sha256, **_files(source)})
    with refusing():
        checked = generator_lib.checked_generator(made, source)
        contract.check_generator(checked, record, source, of.source)
        model = RecordGenerator(checked, source, of.model.shape)
        return _network(source, model, model.arrays, origin)


def fake_score(source: str, of: Network, *, field: str) -> Network:
    """Open a fake score of another architecture than the teacher's.

    Args:
      source: "module:function", a function that returns a `models.Teacher`. If it takes an
        argument, that is the teacher.
      of: the teacher, whose shape and conditions it must have.
      field: name of the setting, for errors.

    Raises:
      RefusedError: in one line: there is no such function, or what it returns can't be used.
    """
    function = user_function.load(source, field=field)
    given = (of.record(),) if _takes_one(function) else ()
    made = user_function.call(source, *given, field=field)
    with refusing():
        network = _of_record(made, source, Origin(source, sha256=_files(source)))
        if network.model.shape != of.model.shape:
            raise ValueError(
                f"{field} {source!r} denoises {network.model.shape} and teacher {of.source!r} "
                f"{of.model.shape}: they must be equal"
            )
        record = dataclasses.replace(network.model.teacher, cond=of.model.cond)
        contract.check_form(record, source)
        return network


def content(source: str) -> dict[str, Any]:
    """Describe by digests what a network's file or folder holds, wherever it lies.

    Args:
      source: as `trained` takes it.

    Raises:
      OSError: if there is nothing there, or it can't be downloaded.
      ValueError: if a folder is damaged.
    """
    if diffusers.is_folder(source):
        return _of_diffusers(source)
    if record_folder.is_one(source):
        return record_folder.content(source)
    return teachers.content(source)


def says_its_kind(source: str) -> bool:
    """Tell whether it is known what a network is: a denoiser, or a student.

    Args:
      source: as `teacher` takes it.
    """
    if user_function.is_name(source) or record_folder.is_one(source) or diffusers.is_folder(source):
        return True
    return bool(teachers.card(source).kind)


def differences(own: Any, other: Any) -> list[str]:
    """List in what two models of equal arrays differ, as far as that can be told.

    Args:
      own: of a run.
      other: of a folder.
    """
    if isinstance(own, NetworkDenoiser) and isinstance(other, NetworkDenoiser):
        return own.differences(other)
    kinds = [type(each).__name__ for each in (own, other)]
    names = [getattr(each, "name", "") for each in (own, other)]
    return [
        f"{what}: {mine} -> {theirs}"
        for what, (mine, theirs) in {"kind": kinds, "function": names}.items()
        if mine != theirs
    ]


def trained(source: str, *, field: str) -> Network:
    """Open a network that a run wrote, of whatever kind; a user's functions are called again.

    Args:
      source: the network's folder.
      field: name of the setting, for errors.

    Raises:
      RefusedError: as for `teacher` and `student`.
      ValueError: if the folder is damaged, or the functions make another tree of arrays now.
    """
    if diffusers.is_folder(source):
        return teacher(source, field=field)
    if not record_folder.is_one(source):
        ours = teachers.load(source, field=field)
        return Network(
            source,
            from_edm_kwargs(ours.init_kwargs),
            ours.init_kwargs,
            load=lambda: ours.params,
            content=lambda: teachers.content(source),
            classes=teachers.classes(source),
            card=ours.card,
        )
    origin, card = record_folder.read(source)
    network = teacher(origin.teacher, field=f"{field}={source}: teacher")
    if origin.stylegan2:
        network = _of_pickle(origin.student, network, Pickle(origin.student, origin.stylegan2))
    elif origin.student:
        where = f"{field}={source}: student"
        network = student(origin.student, network, field=where)
    assert network.origin is not None
    _tell_changes(source, origin, network.origin)
    model = network.model
    try:
        arrays = record_folder.load(source, model.arrays)
    except ValueError as error:
        raise ValueError(
            f"{field}={source} isn't what {origin.student or origin.teacher} makes now: {error}"
        ) from error
    if isinstance(model, RecordGenerator):
        made = dataclasses.replace(model.generator, params=arrays.tree)
        model = dataclasses.replace(model, generator=made, read=None)
    else:
        model = dataclasses.replace(
            model, teacher=dataclasses.replace(model.teacher, params=arrays.tree)
        )
    return dataclasses.replace(
        _network(source, model, arrays, network.origin),
        card=card,
        content=lambda: record_folder.content(source),
    )


def _of_pickle(source: str, of: Network, pickle: Pickle, dtype: Any = None) -> Network:
    with refusing():
        model = pickle.student(of.model, (source, of.source), dtype)
    described = dict(pickle.init_kwargs)
    origin = dataclasses.replace(_origin(of), student=source, stylegan2=described)
    network = _network(source, model, model.arrays, origin)
    return dataclasses.replace(network, content=pickle.content)


def _of_record(made: Any, source: str, origin: Origin) -> Network:
    record = teacher_lib.checked(made, source)
    contract.check_form(record, source)
    model = RecordDenoiser(record, source)
    return dataclasses.replace(
        _network(source, model, model.arrays, origin), card=ModelCard(model_card.DENOISER)
    )


def _network(source: str, model: Model, arrays: Arrays, origin: Origin) -> Network:
    return Network(
        source,
        model,
        {"teacher": origin.teacher, "student": origin.student},
        load=arrays.start,
        content=lambda: {"sha256": arrays.digest(), "code": dict(origin.sha256)},
        origin=origin,
    )


def _origin(network: Network) -> Origin:
    return network.origin or Origin(network.source)


def _tell_changes(source: str, then: Origin, now: Origin) -> None:
    for file in sorted(then.sha256.keys() & now.sha256.keys()):
        if then.sha256[file] != now.sha256[file]:
            warn_once(
                f"{file} has changed since {source} was written (SHA-256 "
                f"{then.sha256[file][:12]} -> {now.sha256[file][:12]}): its functions may compute "
                "something else now."
            )


def _files(name: str) -> dict[str, str]:
    file, digest = user_function.file_of(name)
    return {file: digest} if file else {}


def _of_diffusers(folder: str) -> dict[str, Any]:
    """Describe the files of a folder of diffusers' by their content, wherever they lie."""
    described = diffusers.describe(folder)
    each = [digests.of_path(Path(file)) for file in (*described.configs, *described.weights)]
    joined = "".join(entry["sha256"] for entry in each)
    return {
        "bytes": sum(entry["bytes"] for entry in each),
        "sha256": hashlib.sha256(joined.encode()).hexdigest(),
    }


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Context in which what is wrong with a user's function is the command line's mistake."""
    try:
        yield
    except RefusedError:
        raise
    except ValueError as error:
        raise RefusedError(str(error)) from error


def check_computation(name: str, config: Any) -> None:
    """Check that a config asks nothing of a user's network that its own function decides.

    Args:
      name: of the network, for errors.
      config: fields `dtype`, `attention`, `dropout`, `rematerialize`.

    Raises:
      RefusedError: naming the field.
    """
    own = {"dtype": "float32", "attention": "xla", "dropout": 0.0, "rematerialize": False}
    for field, value in own.items():
        if config.get(field, value) != value:
            raise RefusedError(
                f"config.{field}={config[field]!r}: {name} computes as its own function says; set "
                f"it to {value!r}, and do that in the function"
            )
