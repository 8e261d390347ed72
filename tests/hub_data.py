"""Small data repositories in the hub's own layouts, for the stand-in hub."""

import json
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[Mapping[str, object]]
Splits = Mapping[str, Rows]


def write_squad(root: Path, splits: Splits) -> None:
  """Write SQuAD, its one configuration the default."""
  names = ('id', 'title', 'context', 'question')
  answers = {'text': pa.list_(pa.string()), 'answer_start': pa.list_(pa.int32())}
  schema = pa.schema(
    {**dict.fromkeys(names, pa.string()), 'answers': pa.struct(answers)}
  )
  parts = [_feature('text', 'string'), _feature('answer_start', 'int32')]
  features = [*_strings(names), {'name': 'answers', 'sequence': parts}]
  infos = [
    _write_config(root / 'datasets/squad', 'plain_text', splits, schema, features)
  ]
  _write_card(root / 'datasets/squad', infos, default='plain_text')


def write_cnn_dailymail(root: Path, splits: Splits) -> None:
  """Write CNN/DailyMail, its three versions with the same rows; none is default."""
  names = ('article', 'highlights', 'id')
  schema = pa.schema(dict.fromkeys(names, pa.string()))
  folder = root / 'datasets/cnn_dailymail'
  infos = [
    _write_config(folder, version, splits, schema, _strings(names))
    for version in ('1.0.0', '2.0.0', '3.0.0')
  ]
  _write_card(folder, infos)


def write_wmt16(root: Path, pairs: Mapping[str, Splits]) -> None:
  """Write WMT16, `pairs` naming its configurations as the hub does: 'de-en'."""
  folder = root / 'datasets/wmt16'
  infos = []
  for pair, splits in pairs.items():
    languages = pair.split('-')
    translation = pa.struct(dict.fromkeys(languages, pa.string()))
    schema = pa.schema({'translation': translation})
    features = [_feature('translation', {'translation': {'languages': languages}})]
    infos.append(_write_config(folder, pair, splits, schema, features))
  _write_card(folder, infos)


def _feature(name: str, dtype: object) -> dict[str, object]:
  return {'name': name, 'dtype': dtype}


def _strings(names: Sequence[str]) -> list[dict[str, object]]:
  return [_feature(name, 'string') for name in names]


def _write_config(
  folder: Path, config: str, splits: Splits, schema: pa.Schema, features: list
) -> dict[str, object]:
  """Write a configuration's parquet files and return its part of the card."""
  (folder / config).mkdir(parents=True)
  described, download_size = [], 0
  for split, rows in splits.items():
    table = pa.Table.from_pylist(list(rows), schema=schema)
    path = folder / config / f'{split}-00000-of-00001.parquet'
    pq.write_table(table, path)
    download_size += path.stat().st_size
    described.append(
      {'name': split, 'num_bytes': table.nbytes, 'num_examples': table.num_rows}
    )
  return {
    'config_name': config,
    'features': features,
    'splits': described,
    'download_size': download_size,
    'dataset_size': sum(split['num_bytes'] for split in described),
  }


def _write_card(folder: Path, infos: list[dict], default: str | None = None) -> None:
  configs = [
    {
      'config_name': info['config_name'],
      'data_files': [
        {'split': split['name'], 'path': f'{info["config_name"]}/{split["name"]}-*'}
        for split in info['splits']
      ],
      **({'default': True} if info['config_name'] == default else {}),
    }
    for info in infos
  ]
  # The hub's cards state a lone configuration bare. JSON is YAML as well.
  front = {'dataset_info': infos if len(infos) > 1 else infos[0], 'configs': configs}
  text = f'---\n{json.dumps(front, indent=2)}\n---\n\n# {folder.name}\n'
  (folder / 'README.md').write_text(text)
