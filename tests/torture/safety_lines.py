"""The safety lines of the product: `torture.mutants` breaks each, and a family must then fail.

The comments state the eleven rules that they belong to. Each `line` occurs once in its file, which
tests/test_torture.py checks. A change of such a line changes its entry here.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change that breaks a promise."""

    rule: int
    file: str
    line: str  # the fragment that is replaced
    instead: str
    family: str  # which must fail
    why: str  # what the line is there for


RESUME = "exact resume"
_COUNTED = "self.__dict__.setdefault('n', iter(range(10**9))).__next__()"

SAFETY_LINES = [
    # 1. State is weights, moments and one integer; all else is a function of the step.
    Mutant(1, "run.py", "checkpoint.read_into(self._weights | moments)",
           "checkpoint.read_into(self._weights)", RESUME, "the moments are part of the state"),
    Mutant(1, "run.py", "self.optimizer.start_at(checkpoint.step)", "self.optimizer.start_at(0)",
           RESUME, "AdamW counts its steps to correct its bias"),
    Mutant(1, "run.py", "self.history = {name: metadata[name] for name in HISTORY if name in "
           "metadata}", "self.history = {}", RESUME, "patience counts from the best evaluation"),
    Mutant(1, "run.py", "        self.step = checkpoint.step\n",
           "        self.step = max(0, checkpoint.step - 1)\n", RESUME, "no step is done twice"),
    Mutant(1, "data/batches.py", "return np.arange(self._batch_size) + step * self._batch_size",
           f"return np.arange(self._batch_size) + {_COUNTED} * self._batch_size", RESUME,
           "a batch depends on the step, not on the batches before"),
    Mutant(1, "data/drills.py", "first = step * self._batch_size - before",
           "first = step * self._batch_size - self.__dict__.setdefault('before', before)", RESUME,
           "the text has no gap after drills"),
    Mutant(1, "data/mixture.py", "rows = np.arange(self._batch_size) + step * self._batch_size",
           f"rows = np.arange(self._batch_size) + {_COUNTED} * self._batch_size", RESUME,
           "a mixture depends on the step, not on the batches before"),
    Mutant(1, "train.py", "            run.model.set_windows(run.windows_at(run.step))\n", "",
           RESUME, "the window of a step is not the one of the evaluation before"),
    Mutant(1, "training/resume.py", "    if step > length:\n", "    if False:\n", RESUME,
           "a run past its end is not one of that length"),
    Mutant(1, "training/resume.py",
           'if section in ("model", "tokenizer", "data") or key in FIXED_SETTINGS:', "if False:",
           RESUME, "another model, text or optimizer is another run"),
    Mutant(1, "start.py", "    _arrange_buckets(run)\n", "", "processes",
           "the sums of several processes have one order, also after a restart"),
    # 2. One way to write a file: a temporary file, synced, renamed; the folder synced.
    Mutant(2, "storage.py", "            os.fsync(file.fileno())\n", "", "power cut",
           "a renamed file whose bytes are not on the disk is empty after a power cut"),
    Mutant(2, "storage.py", "            file.flush()\n", "", "power cut",
           "bytes in Python's buffer are not synced"),
    Mutant(2, "storage.py", "        os.fsync(descriptor)\n", "        pass\n", "power cut",
           "a name that is not on the disk is lost"),
    Mutant(2, "storage.py", "# a failed write or fsync names no file\n"
           "        part.unlink(missing_ok=True)\n", "# a failed write or fsync names no file\n",
           "system calls", "torn files would fill the disk"),
    Mutant(2, "storage.py", 'with part.open("xb") as file:',
           'with (part := path).open("wb") as file:', "system calls",
           "a file that is written in place is torn by a kill"),
    Mutant(2, "storage.py", "        shutil.rmtree(part, ignore_errors=True)\n        raise\n",
           "        raise\n", "system calls", "torn folders would fill the disk"),
    Mutant(2, "train.py", "            remove_torn_files(config.folder)\n", "            pass\n",
           "killed at calls", "each kill in a save leaves a torn file"),
    # 3. One file per checkpoint, whose name has the hash of every byte.
    Mutant(3, "training/checkpoint.py", "if named and sha256_of(path)[:16] != named[2]:",
           "if False:", "damaged checkpoints", "a flipped bit in a weight must be noticed"),
    Mutant(3, "run.py", '            "data_hash": self.corpus.data_hash,\n',
           '            "data_hash": self.corpus.data_hash,\n'
           '            "saved": __import__("time").time(),\n', RESUME,
           "equal runs write equal files: no time in a checkpoint"),
    Mutant(3, "training/resume.py", 'if data_hash != checkpoint.metadata["data_hash"]:',
           "if False:", RESUME, "a run does not go on with another text"),
    Mutant(3, "training/sharded.py",
           "if hashlib.sha256(content).hexdigest()[:16] != recorded_hash:", "if False:",
           "damaged sharded", "a flipped bit in the index must be noticed"),
    Mutant(3, "training/sharded.py", "if hash_of_shard(folder / name) != recorded:", "if False:",
           "damaged sharded", "a flipped bit in a shard must be noticed"),
    Mutant(3, "training/sharded.py", "if {path.name for path in folder.iterdir()} != "
           "{*files, INDEX}:", "if False:", "damaged sharded",
           "the library reads every shard in the folder"),
    # 4. The newest valid checkpoint; never from zero beside others; at least two are kept.
    Mutant(4, "training/run_folder.py", "return _first_valid(paths[::-1]) if paths else None",
           "return _first_valid(paths) if paths else None", RESUME, "the newest, not the oldest"),
    Mutant(4, "training/run_folder.py", "        except UserError as error:\n            print",
           "        except UserError as error:\n            raise\n            print",
           "damaged folders", "one damaged file does not stop a run that has an earlier one"),
    Mutant(4, "training/run_folder.py", 'print(f"skipped: ', '"" and print(f"skipped: ',
           "damaged folders", "each file that is skipped is named"),
    Mutant(4, "training/run_folder.py", "    raise UserError(\n        f\"none of the",
           "    return None\n    raise UserError(\n        f\"none of the", "damaged folders",
           "a run whose checkpoints are all damaged does not start from zero"),
    Mutant(4, "training/run_folder.py", "for path in list(losses)[:-keep]:",
           "for path in list(losses)[:-1]:", RESUME,
           "the checkpoint before is kept: the last may be damaged"),
    Mutant(4, "train.py", "    if checkpoint is not None and not resume:\n", "    if False:\n",
           RESUME, "a second start by mistake does not change a run"),
    # 5. A lock on the run's folder.
    Mutant(5, "train.py", "lock(config.folder, wait=False) if world.is_first else nullcontext():",
           "nullcontext():", "two writers", "two processes in a folder delete each other's files"),
    Mutant(5, "storage.py", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
           "two writers", "the kernel frees a lock of flock on any death"),
    # 6. A signal sets a flag, which is read at the end of a step; the second ends at once.
    Mutant(6, "train.py", "stopping = run.world.largest(stop.signal)", "stopping = 0", RESUME,
           "a signal stops the run"),
    Mutant(6, "train.py", "or finished or stopping or must_keep(run):",
           "or finished or must_keep(run):", RESUME, "the step at which a run stops is saved"),
    Mutant(6, "train.py", "return 128 + stopping", "return 0", RESUME,
           "scripts see that the run is not finished"),
    Mutant(6, "training/interrupt.py", "        self.signal = number\n        self.release()\n",
           "        self.signal = number\n", "signals", "a second signal ends a run that hangs"),
    Mutant(6, "training/interrupt.py",
           '+ ([signal.SIGHUP] if sys.platform != "win32" else [])', "", RESUME,
           "a terminal that is closed sends SIGHUP"),
    Mutant(6, "train.py", "= run.world.largest(stop.signal)", "= stop.signal or 0", "processes",
           "a signal to one process stops all at the same step"),
    # 7. Nothing that is not finite is learned or saved.
    Mutant(7, "train.py", "if not (math.isfinite(loss) and math.isfinite(grad_norm)):",
           "if False:", "not finite", "a diverged run stops and names the step"),
    Mutant(7, "train.py", "                if not math.isfinite(val_loss):\n",
           "                if False:\n", "not finite", "a validation loss of NaN ends the run"),
    Mutant(7, "run.py", "is_broken = not all(", "is_broken = not any(", "not finite",
           "no weight and no moment that is NaN is saved"),
    Mutant(7, "training/checkpoint.py", "if not own_part(tensor).isfinite().all():", "if False:",
           "hostile checkpoints", "a file with NaN is refused, not sampled from"),
    # 8. No code in files; all is checked before a native parser reads it.
    Mutant(8, "training/header.py", "if size < 8 or not 2 <= length <= longest:",
           "if size < 8:", "hostile checkpoints", "a header of 2^63 bytes is not allocated"),
    Mutant(8, "training/header.py", "return type(value) is int and 0 <= value < 2**63",
           "return isinstance(value, (int, float))", "hostile checkpoints",
           "a step or a shape is a whole number"),
    Mutant(8, "training/checkpoint.py",
           'if self.header[name] != ("F32", tuple(shape)):', "if False:", "hostile checkpoints",
           "shapes are compared before memory is allocated"),
    Mutant(8, "training/checkpoint.py", "if not stat.S_ISREG(path.stat().st_mode):", "if False:",
           "odd paths", "opening a pipe may never return"),
    Mutant(8, "training/checkpoint.py", "        except SafetensorError as error:\n",
           "        except ZeroDivisionError as error:\n", "hostile checkpoints",
           "an error of the native parser is reported in one line"),
    Mutant(8, "training/sharded.py", "path.stat().st_size > longest", "False", "hostile sharded",
           "an index of gigabytes is not read"),
    Mutant(8, "training/sharded.py", "stat.S_ISREG((folder / name).lstat().st_mode)", "True",
           "damaged sharded", "opening a pipe may never return"),
    Mutant(8, "training/sharded.py", "if _joined(folder, files) != tensors:",
           "if _joined(folder, files) is None:", "hostile sharded",
           "the shapes that are compared are those of the shards"),
    Mutant(8, "training/sharded.py", "and all(type(number) is int for number in offset)", "",
           "hostile sharded", "a row number is a whole number"),
    Mutant(8, "training/sharded.py",
           "fits = len({start for start, _, _ in blocks}) == len(blocks)",
           "fits = True", "hostile sharded",
           "of two parts at one place, the library reads the last"),
    Mutant(8, "configs/strict_yaml.py",
           "if isinstance(event, yaml.AliasEvent) or event.anchor is not None:", "if False:",
           "hostile settings", "aliases of aliases grow to gigabytes"),
    Mutant(8, "configs/strict_yaml.py", "        if self.depth > MAX_DEPTH:\n",
           "        if False:\n", "mutated configs", "10,000 brackets exhaust the stack"),
    Mutant(8, "configs/strict_yaml.py", "        if key in mapping:\n", "        if False:\n",
           "plain refusals", "of two equal keys, PyYAML would use the last"),
    Mutant(8, "configs/load.py", "if path.stat().st_size > MAX_BYTES:", "if False:",
           "plain refusals", "a file of gigabytes is not read"),
    Mutant(8, "data/prepare.py", 'or sha256_of(path) != file["sha256"]:', "or False:",
           "damaged shards", "a flipped bit in the tokens must be noticed"),
    Mutant(8, "data/prepare.py", "if not -vocab_size <= ids.min() <= ids.max() < vocab_size:",
           "if False:", "damaged shards", "an id outside the vocabulary is not read as another"),
    Mutant(8, "data/chunks.py", "return found if found.sha256 == found.hash_with(tokens) else None",
           "return found", "damaged shards", "damaged tokens of an interrupted job are not used"),
    # 9. No decision reads the clock; logs are cut at the restored step.
    Mutant(9, "training/metrics.py", 'and record["step"] <= step]', "]", RESUME,
           "steps that are repeated are not logged twice"),
    Mutant(9, "training/metrics.py", "[1]) > step", "[1]) > 10**9", RESUME,
           "samples that are repeated are not logged twice"),
    Mutant(9, "training/windows.py", 'f"window {seed} {step}".encode()',
           'f"window {seed} {__import__(\'time\').time()}".encode()', RESUME,
           "a draw depends on seed and step, not on the clock"),
    # 10. Ids in range, text and bytes always decoded.
    Mutant(10, "data/tokenizer.py", "if not 0 <= id < len(self._bytes):",
           "if not id < len(self._bytes):", "plain refusals", "id -1 is not the last token"),
    Mutant(10, "data/tokenizer.py", 'return _SURROGATE.sub("\\ufffd", text)', "return text",
           "every character", "UTF-8 cannot encode half of a pair of surrogates"),
    Mutant(10, "data/tokenizer.py",
           "b\"\".join(self.token_bytes(id) for id in ids).decode(\"utf-8\", \"replace\")",
           "b\"\".join(self.token_bytes(id) for id in ids).decode(\"utf-8\")", "plain refusals",
           "any sequence of ids is a text"),
    Mutant(10, "data/tokenizer.py",
           "return self._decoder.decode(self._tokenizer.token_bytes(id))",
           'return self._tokenizer.token_bytes(id).decode("utf-8", "replace")', "every character",
           "a stream holds back an incomplete character"),
    Mutant(10, "model/generation.py", "if not all(0 <= token < vocab_size for token in prompt):",
           "if False:", "plain refusals", "an id outside the vocabulary is refused"),
    Mutant(10, "data/tokenizer.py", "return [self.bos_id, *self.encode(text)]",
           "return self.encode(text)", "prompts", "an empty prompt is the beginning of a text"),
    # 11. One line, exit code 2.
    Mutant(11, "errors.py", "        except UserError as error:\n            print",
           "        except UserError as error:\n            raise\n            print",
           RESUME, "a mistake of the user is no traceback"),
    Mutant(11, "errors.py", 'return "".join(c if c.isprintable() else "\\ufffd" for c in '
           '" ".join(text.split()))', "return text", "odd paths",
           "the name of a file does not steer the terminal, and the line is one"),
    Mutant(11, "errors.py", "            if error.errno not in _REMEDIES:\n",
           "            if True:\n", "full disk", "a full disk is reported with its remedy"),
]  # fmt: skip
