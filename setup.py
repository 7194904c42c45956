"Reads settings.ini and hands it to setuptools: the metadata lives there and nowhere else"

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here / 'settings.ini', encoding='utf-8')
cfg = {
    k: v.replace('%(user)s', ini['DEFAULT']['user']).replace('%(repo)s', ini['DEFAULT']['repo'])
    for k, v in ini['DEFAULT'].items()
}
extras = {
    k.removesuffix('_requirements'): shlex.split(v)
    for k, v in cfg.items()
    if k.endswith('_requirements')
}
extras['all'] = sorted({r for name, needs in extras.items() if name != 'dev' for r in needs})
extras['dev'] += extras['lab'] + extras['report']  # what the notebooks and their tests need

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    python_requires=f'>={cfg["min_python"]}',
    install_requires=shlex.split(cfg['requirements']),
    extras_require=extras,
    packages=[*find_packages(include=['mri_diffusion*']), 'mri_diffusion.notebooks'],
    package_dir={'mri_diffusion.notebooks': 'nbs/experiments'},
    package_data={
        'mri_diffusion': ['py.typed', 'weights/*/*', 'methods/table.json'],
        'mri_diffusion.notebooks': ['*.ipynb'],
    },
    entry_points=dict(
        console_scripts=shlex.split(cfg['console_scripts']),
        nbdev=[f'{cfg["lib_name"]}={cfg["lib_name"]}._modidx:d'],  # names on the site become links
    ),
    zip_safe=False,
)
