"""The scripts of launch/: what they call, pass on, and do when a run ends.

Their programs are stubs that write down how they were called. What the stubs cannot
show is whether a cloud, Slurm or Kubernetes takes the calls.
"""

import functools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sysconfig
import time

import pytest
import yaml
from kubeflow_trainer_api import models

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted(p for p in LAUNCH.iterdir() if p.suffix in ('.sh', '.sbatch'))
FLAGS = ['--config=configs/qa.py', "--config.hard_prompt=it's one"]


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  shellcheck = pathlib.Path(sysconfig.get_path('scripts')) / 'shellcheck'  # pip's
  done = subprocess.run([shellcheck, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('path', sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_no_hyperparameter_stands_in_a_launch_file(path):
  fields = re.findall(r'--config\.\S+', path.read_text())
  assert not fields


def _stub(folder, name, program):
  """Puts a program in place of another; it starts in a millisecond."""
  folder.mkdir(exist_ok=True)
  path = folder / name
  path.write_text(f'#!/usr/bin/env bash\n{program}')
  path.chmod(0o755)


def _environment(folder, **variables):
  return {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}', **variables}


def _wait_for(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


# Writes its environment and flags to a file, then does what ACTION_<its number> says.
PROCESS = r"""
trap 'echo "process $JAX_PROCESS_ID was asked to end"; exit 143' TERM
trap 'exit 130' INT
{ env | grep ^JAX_; printf '%s\n' "$@"; } > "$RECORDS/$JAX_PROCESS_ID.tmp"
mv "$RECORDS/$JAX_PROCESS_ID.tmp" "$RECORDS/$JAX_PROCESS_ID"
action="ACTION_$JAX_PROCESS_ID"
eval "${!action}"
"""
HANG = 'while true; do sleep 0.01; done'


@pytest.fixture
def local(tmp_path):
  """Starts local.sh with a stub for Python, which does what each process is given."""
  _stub(tmp_path / 'bin', 'python', PROCESS)
  started = []

  def start(*actions, grace=20):
    process = subprocess.Popen(
      [LAUNCH / 'local.sh', str(len(actions)), '--', *FLAGS],
      env=_environment(
        tmp_path / 'bin',
        RECORDS=str(tmp_path),
        GRACE_SECONDS=str(grace),
        **{f'ACTION_{i}': action for i, action in enumerate(actions)},
      ),
      # In a background job SIGINT is ignored, and no trap undoes that.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()


def _records(folder, count):
  """Waits until all processes have begun; returns what each was given."""
  paths = [folder / str(i) for i in range(count)]
  _wait_for(lambda: all(path.exists() for path in paths))
  return [path.read_text().splitlines() for path in paths]


def test_local_gives_every_process_its_number_and_the_same_flags(local, tmp_path):
  assert local('exit 0', 'exit 0', 'exit 0').wait(20) == 0
  records = _records(tmp_path, 3)
  addresses = set()
  for i, record in enumerate(records):
    settings = dict(x.split('=', 1) for x in record if x.startswith('JAX_'))
    settings = {name: x for name, x in settings.items() if name not in os.environ}
    addresses.add(settings.pop('JAX_COORDINATOR_ADDRESS'))
    assert settings == {
      'JAX_NUM_PROCESSES': '3',
      'JAX_PROCESS_ID': str(i),
      'JAX_LOCAL_DEVICE_IDS': str(i),
    }
    assert record[-5:] == ['-m', 'jaxprompt.main', '--distributed', *FLAGS]
  (address,) = addresses
  assert re.fullmatch(r'127\.0\.0\.1:\d+', address)


def test_local_shows_the_first_process_as_it_is_and_numbers_the_lines_of_others(local):
  out, err = local('echo first', 'echo second >&2; printf end').communicate(timeout=20)
  assert (out, err) == ('first\n', '[1] second\n[1] end\n')


@pytest.mark.parametrize(
  'statuses, worst',
  [
    ((0, 143, 0), 143),
    ((143, 1, 0), 1),
    ((1, 143, 143), 1),
    ((134, 2, 143), 2),
    ((2, 1, 0), 2),
  ],
)
def test_local_ends_with_the_worst_status(local, statuses, worst):
  assert local(*(f'exit {status}' for status in statuses)).wait(20) == worst


@pytest.mark.parametrize('sent, status', [('SIGTERM', 143), ('SIGINT', 130)])
def test_local_passes_a_signal_on_to_all(local, tmp_path, sent, status):
  process = local(HANG, HANG, HANG)
  _records(tmp_path, 3)
  process.send_signal(signal.Signals[sent])
  out, err = process.communicate(timeout=20)
  assert process.returncode == status
  if sent == 'SIGTERM':
    assert out == 'process 0 was asked to end\n'
    assert sorted(err.splitlines()) == [
      f'[{i}] process {i} was asked to end' for i in (1, 2)
    ]


def test_local_kills_what_hangs_after_a_crash(local):
  out, _ = local('echo $$; ' + HANG, 'exit 1', grace=0).communicate(timeout=20)
  with pytest.raises(ProcessLookupError):
    os.kill(int(out), 0)


@pytest.mark.parametrize('argv', [[], ['0', '--'], ['two', '--'], ['2', *FLAGS]])
def test_local_refuses_what_it_cannot_read(argv):
  done = subprocess.run([LAUNCH / 'local.sh', *argv], capture_output=True, text=True)
  assert done.returncode == 2
  assert 'expected N -- FLAGS' in done.stderr


# A cloud with the files `request` and `node` for the states of the TPU `qa`. A line of
# `ended` is what the workers say when they are asked how they are; or an event at which
# they do not answer: `request STATE` or `node STATE`.
GCLOUD = r"""
cd "$RECORDS"
printf '%s\0' "$@" '' >> calls
request=$(< request)
case "$3 $4" in
  'queued-resources create') echo "$CREATED" > request ;;
  'queued-resources delete') echo ABSENT > request ;;
  'queued-resources list')
    printf 'other\tSUSPENDED\n'
    [[ $request == ABSENT ]] || printf 'qa\t%s\n' "$request"
    case $request in
      WAITING_FOR_RESOURCES) echo PROVISIONING > request ;;
      PROVISIONING) echo ACTIVE > request; echo READY > node ;;
    esac
    ;;
  'tpu-vm describe') cat node ;;
  'tpu-vm scp') cp "$5" archive ;;
  'tpu-vm ssh')
    [[ $* == *'echo running'* ]] || exit 0
    read -ra answer < ended
    sed -i 1d ended
    case ${answer[0]} in
      request | node) echo "${answer[1]}" > "${answer[0]}"; exit 255 ;;
    esac
    printf '%s\n' "${answer[@]}"
    ;;
esac
"""


class Tpu:
  """A stub cloud with a TPU `qa`, and the script that is to use it."""

  def __init__(self, folder):
    self._folder = folder
    _stub(folder / 'bin', 'gcloud', GCLOUD)
    self.set(request='ACTIVE', node='READY', ended='0 0')

  def set(self, **files):
    """Writes the cloud's files."""
    for name, content in files.items():
      (self._folder / name).write_text(content + '\n')

  def run(self, *argv, status=0, **variables):
    """Runs the script, which must end with the status; returns what it says."""
    settings = {
      'TPU_NAME': 'qa',
      'TPU_ZONE': 'us-west4-a',
      'TPU_TYPE': 'v5litepod-64',
      'TPU_RUNTIME': 'v2-alpha-tpuv5-lite',
      'POLL_SECONDS': '0',
      'RECORDS': str(self._folder),
      'CREATED': 'WAITING_FOR_RESOURCES',
    }
    done = subprocess.run(
      ['timeout', '30', LAUNCH / 'tpu_vm.sh', *argv],
      env=_environment(self._folder / 'bin', **settings | variables),
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr

  def calls(self):
    """Returns the calls that do something, in their order, without the zone."""
    path = self._folder / 'calls'
    records = path.read_text().split('\0\0')[:-1] if path.exists() else []
    calls = [record.split('\0') for record in records]
    assert all(call[:2] == ['compute', 'tpus'] for call in calls)
    assert all(call[-1] == '--zone=us-west4-a' for call in calls)
    calls = [call[2:-1] for call in calls]
    return [call for call in calls if call[1] not in ('list', 'describe')]


@pytest.fixture
def tpu(tmp_path):
  return Tpu(tmp_path)


CREATE = [
  'queued-resources',
  'create',
  'qa',
  '--node-id=qa',
  '--accelerator-type=v5litepod-64',
  '--runtime-version=v2-alpha-tpuv5-lite',
]
DELETE = ['queued-resources', 'delete', 'qa', '--force', '--quiet']
RUN = ['run', '--', *FLAGS, '--workdir=gs://bucket/qa']


def _kinds(calls):
  """Shortens calls to one word each; asks for how the workers are left out."""
  kinds = []
  for call in calls:
    if call[1] == 'ssh':
      command = call[-1]
      kind = 'start' if 'nohup' in command else 'install' if 'uv' in command else None
      kinds += [kind] if kind else []
    else:
      kinds.append(call[1])
  return kinds


@pytest.mark.parametrize('spot', ['true', 'false'])
def test_create_queues_a_request_and_waits_until_the_tpu_is_there(tpu, spot):
  tpu.set(request='ABSENT')
  log = tpu.run('create', TPU_SPOT=spot)
  assert tpu.calls() == [CREATE + ['--spot'] * (spot == 'true')]
  assert log.index('WAITING_FOR_RESOURCES') < log.index('PROVISIONING')


def test_create_waits_for_a_request_that_there_is(tpu):
  tpu.set(request='PROVISIONING')
  tpu.run('create')
  assert tpu.calls() == []


def test_create_says_when_a_request_has_failed(tpu):
  tpu.set(request='ABSENT')
  assert 'the request is FAILED' in tpu.run('create', status=1, CREATED='FAILED')


def test_setup_brings_what_the_main_command_needs_to_all_workers(tpu, tmp_path):
  tpu.run('setup')
  copy, install = tpu.calls()
  assert copy[:2] + copy[3:] == ['tpu-vm', 'scp', 'qa:jaxprompt.tar.gz', '--worker=all']
  assert install[:4] == ['tpu-vm', 'ssh', 'qa', '--worker=all']
  assert '".[tpu]"' in install[4]
  names = subprocess.check_output(['tar', '-tzf', tmp_path / 'archive'], text=True)
  needed = ['pyproject.toml', 'constraints.txt', 'jaxprompt/main.py', 'configs']
  needed.append('jaxprompt/configs/qa.py')  # to which `configs` links
  assert not set(needed) - set(names.splitlines())


def test_run_starts_the_main_command_on_all_workers_and_ends_with_it(tpu):
  tpu.set(ended='running running\nrunning 0\n0 0')
  tpu.run(*RUN)
  start, *asks = tpu.calls()
  assert start[:4] == ['tpu-vm', 'ssh', 'qa', '--worker=all']
  assert len(asks) == 3


@pytest.fixture
def worker(tpu, tmp_path):
  """Runs on this machine what `run` starts on a worker, with a stub for its Python.

  Takes the stub's program; returns the worker's folder and functions that start the run
  and ask for its progress.
  """
  folder = tmp_path / 'worker' / 'jaxprompt'
  tpu.run(*RUN)
  commands = [call[-1].removeprefix('--command=') for call in tpu.calls()]

  def build(program):
    (folder / '.venv').mkdir(parents=True)
    _stub(folder / '.venv' / 'bin', 'python', program)
    return folder, *(
      functools.partial(
        subprocess.check_output,
        ['bash', '-c', command],
        cwd=folder.parent,
        text=True,
        timeout=20,
      )
      for command in commands
    )

  return build


def test_what_run_starts_gets_the_flags_and_leaves_its_status(worker):
  folder, start, ask = worker('printf "%s\\n" "$@"; exit 7')
  assert ask() == 'none\n'
  start()
  _wait_for(lambda: ask() == '7\n')
  log = (folder / 'run.log').read_text().splitlines()
  assert log == ['-m', 'jaxprompt.main', '--distributed', *RUN[2:]]


def test_a_worker_that_runs_is_not_started_again(worker):
  folder, start, ask = worker(
    'trap "exit 143" TERM; echo began; echo $$ > pid; ' + HANG
  )
  start()
  _wait_for((folder / 'pid').exists)
  start()
  time.sleep(1.2)  # it waits a second for the lock
  assert ask() == 'running\n'
  os.kill(int((folder / 'pid').read_text()), signal.SIGTERM)
  _wait_for(lambda: ask() == '143\n')
  assert (folder / 'run.log').read_text() == 'began\n'


@pytest.mark.parametrize(
  'event',
  ['request SUSPENDING', 'request SUSPENDED', 'request FAILED', 'node PREEMPTED'],
)
def test_a_preempted_tpu_is_replaced_and_the_run_goes_on(tpu, event):
  tpu.set(ended=f'running running\n{event}\n0 0')
  assert 'asking for another' in tpu.run(*RUN, TPU_SPOT='true')
  calls = tpu.calls()
  requests = [call for call in calls if call[0] == 'queued-resources']
  assert requests == [DELETE, [*CREATE, '--spot']]
  assert _kinds(calls) == ['start', 'delete', 'create', 'scp', 'install', 'start']
  starts = [call for call in calls if _kinds([call]) == ['start']]
  assert starts[0] == starts[1]


def test_a_run_that_was_asked_to_end_goes_on_however_often(tpu):
  tpu.set(ended='143 143\n' * 5 + '0 0')
  tpu.run(*RUN)
  assert _kinds(tpu.calls()) == ['start'] * 6


@pytest.mark.parametrize('survived, status', [('3', 0), ('2', 1)])
def test_a_crash_is_survived_a_few_times(tpu, survived, status):
  tpu.set(ended='1 143\n0 134\nnone 1\n0 0')
  log = tpu.run(*RUN, MAX_CRASHES=survived, status=status)
  assert _kinds(tpu.calls()) == ['start'] * (4 - status)
  assert 'crash 3' in log


def test_while_the_cloud_does_not_answer_run_waits(tpu):
  tpu.set(ended='node REPAIRING\nnode READY\nrunning running\n0 0')
  tpu.run(*RUN)
  assert _kinds(tpu.calls()) == ['start']


def test_a_mistake_of_the_user_is_not_tried_again(tpu):
  tpu.set(ended='1 2')
  tpu.run(*RUN, status=2)
  assert _kinds(tpu.calls()) == ['start']


def test_a_tpu_that_someone_has_deleted_is_not_replaced(tpu):
  tpu.set(ended='request ABSENT')
  assert 'was deleted' in tpu.run(*RUN, status=1)
  assert _kinds(tpu.calls()) == ['start']


def test_status_logs_and_delete(tpu):
  tpu.set(ended='running 0')
  assert tpu.run('status').split() == ['ACTIVE', 'running', '0']
  tpu.run('logs', '3')
  tpu.run('delete')
  *_, logs, delete = tpu.calls()
  assert logs[:4] == ['tpu-vm', 'ssh', 'qa', '--worker=3']
  assert delete == DELETE


@pytest.mark.parametrize(
  'argv, variables, message',
  [
    (['run', '--', *FLAGS, '--workdir=runs/qa'], {}, 'no --workdir=gs://BUCKET/'),
    (['run', *FLAGS], {}, "expected -- and the main command's flags"),
    (['create'], {'TPU_TYPE': ''}, '$TPU_TYPE is not set'),
    (['status'], {'TPU_ZONE': ''}, '$TPU_ZONE is not set'),
    (['start'], {}, "'start' is no command"),
    ([], {}, "'' is no command"),
  ],
)
def test_tpu_vm_refuses_what_it_cannot_do(tpu, argv, variables, message):
  assert message in tpu.run(*argv, status=2, **variables)


def test_run_needs_a_tpu(tpu):
  tpu.set(request='ABSENT')
  assert 'there is no TPU qa in us-west4-a' in tpu.run(*RUN, status=2)


@pytest.fixture
def slurm(tmp_path):
  """Starts slurm.sbatch with a stub srun that does a given thing."""
  record = 'echo "$(basename "$0")" "${@@Q}" >> "$RECORDS/calls"\n'
  _stub(tmp_path / 'bin', 'srun', record + 'trap "exit 143" TERM\neval "$ACTION"')
  _stub(tmp_path / 'bin', 'scontrol', record)
  _stub(tmp_path / 'bin', 'scancel', record + 'kill -TERM "$(cat "$RECORDS/srun")"')

  def start(action, restarts=0):
    return subprocess.Popen(
      ['bash', LAUNCH / 'slurm.sbatch', *FLAGS],
      env=_environment(
        tmp_path / 'bin',
        RECORDS=str(tmp_path),
        ACTION=action,
        SLURM_JOB_ID='31',
        SLURM_RESTART_COUNT=str(restarts),
      ),
    )

  def calls():
    return [shlex.split(x) for x in (tmp_path / 'calls').read_text().splitlines()]

  return start, calls


REQUEUE = ['scontrol', 'requeue', '31']


def test_slurm_passes_the_flags_to_a_process_a_task(slurm):
  start, calls = slurm
  assert start('exit 0').wait(20) == 0
  (srun,) = calls()
  assert srun[:2] == ['srun', '--kill-on-bad-exit=0']
  assert srun[2:] == ['python', '-m', 'jaxprompt.main', '--distributed', *FLAGS]


@pytest.mark.parametrize(
  'status, restarts, requeued',
  [(2, 0, False), (143, 0, False), (1, 0, True), (1, 2, True), (1, 3, False)],
)
def test_slurm_requeues_after_a_crash_a_few_times(slurm, status, restarts, requeued):
  start, calls = slurm
  assert start(f'exit {status}', restarts).wait(20) == status
  assert calls()[1:] == [REQUEUE] * requeued


def test_slurm_asks_the_tasks_to_end_before_the_time_limit_and_requeues(
  slurm, tmp_path
):
  start, calls = slurm
  job = start('echo $$ > "$RECORDS/srun"; ' + HANG, restarts=9)
  _wait_for(lambda: (tmp_path / 'srun').exists() and (tmp_path / 'srun').read_text())
  job.send_signal(signal.SIGUSR1)
  assert job.wait(20) == 143
  assert calls()[1:] == [['scancel', '--signal=TERM', '31'], REQUEUE]


def test_slurm_is_told_to_warn_the_script_alone_and_to_keep_the_log():
  options = re.findall(r'^#SBATCH (\S+)', (LAUNCH / 'slurm.sbatch').read_text(), re.M)
  assert {'--requeue', '--open-mode=append', '--signal=B:USR1@120'} <= set(options)


def _jobset(devices):
  """Returns the JobSet as it stands (TPU), or changed as its head says (GPU)."""
  text = (LAUNCH / 'jobset.yaml').read_text()
  if devices == 'GPU':
    text = re.sub(r'^( +)\S+: \S+ # GPU: ?(.*)$', r'\1\2', text, flags=re.M)
  return yaml.safe_load(text)


@pytest.mark.parametrize('devices', ['TPU', 'GPU'])
def test_the_jobset_is_one_by_the_types_of_its_api(devices):
  """A field that the API does not know would be lost on the way through its types."""
  jobset = _jobset(devices)
  assert models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset


@pytest.mark.parametrize(
  'devices, selector, limit',
  [
    (
      'TPU',
      {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology': '8x8',
      },
      {'google.com/tpu': 4},
    ),
    (
      'GPU',
      {'cloud.google.com/gke-accelerator': 'nvidia-h100-80gb'},
      {'nvidia.com/gpu': 8},
    ),
  ],
)
def test_the_jobset_asks_for_the_devices(devices, selector, limit):
  pod = _pod(_jobset(devices))
  assert pod['nodeSelector'] == selector
  assert pod['containers'][0]['resources']['limits'] == limit


def _job(jobset):
  (workers,) = jobset['spec']['replicatedJobs']
  return workers['template']['spec']


def _pod(jobset):
  return _job(jobset)['template']['spec']


def test_the_jobset_tells_jax_of_as_many_processes_as_there_are_nodes():
  jobset = _jobset('TPU')
  job, (container,) = _job(jobset), _pod(jobset)['containers']
  variables = {entry['name']: entry for entry in container['env']}
  assert job['parallelism'] == job['completions'] == 16
  assert variables['JAX_NUM_PROCESSES']['value'] == '16'
  assert job['completionMode'] == 'Indexed'  # which gives the pods their numbers
  annotations = {
    name: variables[name]['valueFrom']['fieldRef']['fieldPath']
    for name in ('COORDINATOR', 'JAX_PROCESS_ID')
  }
  assert annotations == {
    'COORDINATOR': "metadata.annotations['jobset.sigs.k8s.io/coordinator']",
    'JAX_PROCESS_ID': (
      "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    ),
  }
  names = list(variables)  # $(COORDINATOR) must have been defined before
  assert names.index('COORDINATOR') < names.index('JAX_COORDINATOR_ADDRESS')
  assert container['command'] == ['python', '-m', 'jaxprompt.main', '--distributed']


def test_the_jobset_starts_again_what_a_restart_can_help():
  jobset = _jobset('TPU')
  job, pod = _job(jobset), _pod(jobset)
  actions = {
    value: rule['action']
    for rule in job['podFailurePolicy']['rules']
    for value in rule['onExitCodes']['values']
  }
  assert actions == {2: 'FailJob', 143: 'Ignore'}
  assert pod['restartPolicy'] == 'Never'  # else a podFailurePolicy is refused
  assert job['backoffLimit'] == 0
  (rule,) = jobset['spec']['failurePolicy']['rules']
  assert (rule['action'], rule['onJobFailureReasons']) == (
    'FailJobSet',
    ['PodFailurePolicy'],
  )
  assert jobset['spec']['failurePolicy']['maxRestarts'] > 0
